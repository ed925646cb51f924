//! The configuration reference and the JSON schema: made of the settings, and held to them.

use serde_json::Value;

use super::super::describe::{Description, Holds, Key, Kind};
use super::super::settings::Settings;
use super::super::{read, schema};
use super::*;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
/// Set, the test writes the page instead of comparing it.
const UPDATE: &str = "BACKSTOP_UPDATE_DOCS";

const INTRODUCTION: &str = "\
# Configuration reference

Every key, made from the source (a test compares). [`deploy/backstop.toml`](../deploy/backstop.toml) is the same as a file
to start from, printed by `backstop config default`; [`deploy/examples`](../deploy/examples) has whole files for usual
places; `backstop config schema` prints a JSON schema for editors; `backstop check` says what is wrong with a file, or
what is in force and where each value comes from.

- Only one `[[route]]` with `domains` and `backends` must be written. A misspelt key is a fault, not ignored.
- Later places win: defaults, then the file, then the environment. `limits.max_errors` is
  `BACKSTOP__LIMITS__MAX_ERRORS`; a list is written as in the file: `BACKSTOP__LIMITS__BYPASS='[\"10.0.0.0/8\"]'`.
- Durations are `\"500ms\"`, `\"10s\"`, `\"5m\"`, `\"12h\"` or `\"7d\"`; sizes `\"512B\"`, `\"64KiB\"`, `\"25MiB\"` or `\"1GiB\"`. Zero needs no unit.
- `\"\"` is the same as leaving a text out.
";

#[test]
fn the_reference_page_is_what_the_settings_say() {
    let mut page = INTRODUCTION.to_owned();
    section("", false, "The top of the file, before any section.", &Description::of::<Settings>(), &mut page);
    if std::env::var_os(UPDATE).is_some() {
        fs::write(PAGE, &page).unwrap();
    }
    let written = fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        written == page,
        "docs/configuration.md is not what the settings say; write it anew with\n  \
        {UPDATE}=1 cargo test --lib the_reference_page\nIt should be:\n\n{page}"
    );
}

/// A section with its keys, then the sections in it.
fn section(path: &str, repeats: bool, about: &str, description: &Description, page: &mut String) {
    let single = |key: &&Key| matches!(key.holds, Holds::One(_) | Holds::List(_));
    let heading = match (path, repeats) {
        ("", _) => "Top level".to_owned(),
        (path, true) => format!("`[[{path}]]`"),
        (path, false) => format!("`[{path}]`"),
    };
    let may_repeat = if repeats { " May be written again for another one." } else { "" };
    page.push_str(&format!("\n## {heading}\n\n{about}{may_repeat}\n"));
    if description.keys.iter().any(|key| single(&key)) {
        page.push_str("\n| key | value | default | meaning |\n|---|---|---|---|\n");
    }
    description.keys.iter().filter(single).for_each(|key| row(key, page));
    for key in &description.keys {
        let path = read::join(path, key.name);
        match &key.holds {
            Holds::Table(keys) => section(&path, false, &key.meaning, keys, page),
            Holds::Tables(keys) => section(&path, true, &key.meaning, keys, page),
            Holds::One(_) | Holds::List(_) => {}
        }
    }
}

fn row(key: &Key, page: &mut String) {
    let (kind, is_list) = match &key.holds {
        Holds::One(kind) => (kind, false),
        Holds::List(kind) => (kind, true),
        Holds::Table(_) | Holds::Tables(_) => return,
    };
    let name = if kind.words.is_empty() { kind.name.to_owned() } else { words(kind) };
    let name = if is_list { format!("list of: {name}") } else { name };
    let meanings = kind.words.iter().map(|(word, meaning)| format!("<br>`{word}`: {}", meaning.trim()));
    let meaning: String = std::iter::once(key.meaning.clone()).chain(meanings).collect();
    let default = kind.default.to_string();
    let cells = [format!("`{}`", key.name), name, format!("`{default}`"), meaning];
    page.push_str(&format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | ")));
}

fn words(kind: &Kind) -> String {
    kind.words.iter().map(|(word, _)| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ")
}

#[test]
fn the_schema_has_every_key_with_its_default() {
    let schema: Value = serde_json::from_str(&super::super::schema()).unwrap();
    let session = &schema["properties"]["limits"]["properties"]["max_errors"];
    assert_eq!((&session["type"], &session["default"]), (&"integer".into(), &20.into()));
    let mode = &schema["properties"]["route"]["items"]["properties"]["verify"]["properties"]["mode"];
    assert_eq!(mode["enum"], serde_json::json!(["enforce", "shadow", "off"]));
    assert!(mode["description"].as_str().unwrap().contains("\nshadow: "), "{mode}");
    assert_eq!(schema["properties"]["cache"]["additionalProperties"], false);
    // The file that shows every key, in which a test finds no key missing, has no key the schema lacks.
    let shown = uncommented();
    let file: figment::value::Dict =
        figment::Figment::from(<figment::providers::Toml as figment::providers::Format>::string(&shown))
            .extract()
            .unwrap();
    assert_eq!(unknown_to(&schema, &serde_json::to_value(file).unwrap(), ""), Vec::<String>::new());
}

/// The keys of `value` that `schema` does not know.
fn unknown_to(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    match value {
        Value::Object(entries) => {
            let of_entry = |(name, value): (&String, &Value)| {
                let path = read::join(path, name);
                match schema["properties"].get(name) {
                    Some(schema) => unknown_to(schema, value, &path),
                    None => vec![path],
                }
            };
            entries.iter().flat_map(of_entry).collect()
        }
        Value::Array(elements) => {
            elements.iter().flat_map(|element| unknown_to(&schema["items"], element, path)).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn every_default_is_what_its_own_pattern_allows() {
    // Without an engine for regular expressions: the patterns are anchored, and each has an example that the
    // kind itself reads. `deploy/validate` holds whole files against the schema.
    let document = schema::document(&Description::of::<Settings>()).to_string();
    assert!(document.contains("\"pattern\""), "{document}");
    for part in document.split("\"pattern\":\"").skip(1) {
        assert!(part.starts_with('^') && part.split('"').next().unwrap().ends_with('$'), "{part}");
    }
}
