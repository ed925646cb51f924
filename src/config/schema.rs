//! The JSON schema (draft 2020-12) of the configuration file, for editors and pipelines.
//!
//! It knows every key, its kind and its default. What depends on several keys at once, and what only the
//! system can tell (files, addresses in use), is left to `backstop check`.

use serde_json::{Map, Value, json};

use super::describe::{Description, Holds, Key, Kind};

/// The schema of a section with these keys.
pub(super) fn of(description: &Description) -> Value {
    let properties: Map<String, Value> =
        description.keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    // A misspelt key is a fault, here as in the file.
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

/// The schema of the whole file.
pub(super) fn document(settings: &Description) -> Value {
    let mut schema = of(settings);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Backstop: configuration");
    schema["required"] = json!(["route"]);
    schema
}

fn property(key: &Key) -> Value {
    let mut schema = match &key.holds {
        Holds::One(kind) => with_default(kind.schema.clone(), kind),
        Holds::List(kind) => with_default(json!({ "type": "array", "items": kind.schema }), kind),
        Holds::Table(keys) => of(keys),
        Holds::Tables(keys) => json!({ "type": "array", "items": of(keys) }),
    };
    schema["description"] = json!(described(key));
    schema
}

fn with_default(mut schema: Value, kind: &Kind) -> Value {
    schema["title"] = json!(kind.name.replace('`', ""));
    schema["default"] = kind.default.clone();
    schema
}

/// Its meaning, and that of each word it may be.
fn described(key: &Key) -> String {
    let words = match &key.holds {
        Holds::One(kind) | Holds::List(kind) => kind.words,
        Holds::Table(_) | Holds::Tables(_) => &[],
    };
    let words = words.iter().map(|(word, meaning)| format!("\n{word}: {}", meaning.trim()));
    std::iter::once(key.meaning.clone()).chain(words).collect()
}
