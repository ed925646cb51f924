//! The layers of the crate, checked: an import goes down, and `proto` stays pure.
//!
//! Reads every file under `src` as tokens, with comments, literals and `#[cfg(test)]` items taken out,
//! and follows each path that begins with `crate::`, `self::` or `super::` to the top-level module it
//! reaches. `lib.rs` and `main.rs` are roots and may name every layer; files of tests (`tests.rs`) may
//! import what they like, except into `proto`.
//!
//! Known limits: a renamed root (`use crate as c`) and paths put together by a macro are not seen.

use std::fs;
use std::path::{Path, PathBuf};

/// Top to bottom. Modules of one row do not import each other.
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["server"],
    &["admin", "session"],
    &["guard", "verify"],
    &["backend", "store"],
    &["net"],
    &["config", "observe"],
    &["proto"],
];

/// What would give `proto` a socket, a clock, a log or a metric.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio_util",
    "socket2",
    "hyper",
    "tracing",
    "prometheus",
    "Instant",
    "SystemTime",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixListener",
    "UnixStream",
];

#[test]
fn imports_go_down_only() {
    let files = product_files();
    assert!(files.iter().any(|(name, _)| name.starts_with("proto/")), "src was not found: {files:?}");
    let faults: Vec<_> = files.iter().flat_map(|(name, text)| wrong_imports(name, text)).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn proto_has_no_socket_clock_log_or_metric() {
    let files = product_files();
    let proto = files.iter().filter(|(name, _)| name.starts_with("proto"));
    let faults: Vec<_> = proto.flat_map(|(name, text)| impurities(name, text)).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn an_import_that_does_not_go_down_is_found() {
    for (name, text, fault) in [
        ("net/dial.rs", "use crate::verify::Policy;", "src/net/dial.rs:1: net imports verify"),
        ("proto/line.rs", "\n\nuse crate::net;", "src/proto/line.rs:3: proto imports net"),
        ("proto.rs", "use crate::config::Config;", "src/proto.rs:1: proto imports config"),
        (
            "guard/mod.rs",
            "use crate::{proto::line, verify as v};",
            "src/guard/mod.rs:1: guard imports verify",
        ),
        ("store/mod.rs", "fn f() { crate::backend::take() }", "src/store/mod.rs:1: store imports backend"),
        ("net/mod.rs", "use super::store::File;", "src/net/mod.rs:1: net imports store"),
        ("net/tls.rs", "use super::{super::admin::Page, dial};", "src/net/tls.rs:1: net imports admin"),
        ("net/tls.rs", "mod x { use super::super::super::cli; }", "src/net/tls.rs:1: net imports cli"),
        ("net/tls.rs", "mod x {} use super::super::cli;", "src/net/tls.rs:1: net imports cli"),
        ("net/tls.rs", "use self::super::super::cli;", "src/net/tls.rs:1: net imports cli"),
        ("net/tls.rs", "#[cfg(test)] mod tests { } use crate::cli;", "src/net/tls.rs:1: net imports cli"),
        ("net/tls.rs", "#[cfg(test)] mod tests; use crate::cli;", "src/net/tls.rs:1: net imports cli"),
        (
            "net/tls.rs",
            "const C: [char; 2] = ['\"', '\\'']; use crate::cli;",
            "src/net/tls.rs:1: net imports cli",
        ),
        ("net/tls.rs", "use crate::*;", "src/net/tls.rs:1: * is in no layer"),
        ("util/mod.rs", "", "src/util/mod.rs:1: util is in no layer"),
    ] {
        assert_eq!(wrong_imports(name, text), [fault], "{text}");
    }
}

#[test]
fn imports_that_go_down_and_tests_are_left_alone() {
    for (name, text) in [
        ("net/dial.rs", "use crate::{config::Config, net::Stream, observe, proto::{line, reply}};"),
        ("net/tls/pin.rs", "use super::super::verify::T; use super::store::U; pub(super) fn f() {}"),
        ("net/tls.rs", "mod x { use super::super::cli; }"),
        (
            "net/tls.rs",
            "// crate::cli\n/* crate::cli /* nested */ crate::cli */ /// [`crate::cli`]\nfn f() {}",
        ),
        (
            "net/tls.rs",
            r###"const S: &[&str] = &["\"crate::cli", r#""crate::cli"#]; struct A<'a>(&'a u8);"###,
        ),
        ("net/tls.rs", "#[cfg(test)]\n#[rustfmt::skip]\nmod tests { use crate::cli; fn f() {} }"),
        ("net/tls.rs", "#[cfg(test)] use crate::cli;"),
        ("net/tests.rs", "use crate::cli;"),
        ("net/dial/tests.rs", "use crate::cli;"),
        ("lib.rs", "use crate::anything;"),
        ("main.rs", "fn main() {}"),
    ] {
        assert_eq!(wrong_imports(name, text), [""; 0], "{text}");
    }
}

#[test]
fn what_would_make_proto_impure_is_found() {
    for text in [
        "use tokio::io::AsyncRead;",
        "fn f() { tracing::info!(\"x\") }",
        "use std::{net::{IpAddr, TcpStream}};",
        "fn f() -> std::time::Instant { std::time::Instant::now() }",
        "#[cfg(test)] mod tests { use std::time::SystemTime; }",
    ] {
        assert!(!impurities("proto/line.rs", text).is_empty(), "{text}");
    }
    let pure = "//! Unlike tokio's, this one takes the Instant as \"now\".\nuse std::net::IpAddr;";
    assert_eq!(impurities("proto/line.rs", pure), [""; 0]);
}

/// Every Rust file under `src`: its name from there, and its text.
fn product_files() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut directories = vec![src.clone()];
    let mut files = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of the source tree is readable") {
            let path: PathBuf = entry.expect("an entry of the source tree is readable").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&src).expect("the walk stays below src");
                let text = fs::read_to_string(&path).expect("a source file is text");
                files.push((name.to_string_lossy().into_owned(), text));
            }
        }
    }
    files
}

/// Faults of the imports of one file, each with its place.
fn wrong_imports(name: &str, text: &str) -> Vec<String> {
    let module: Vec<&str> = name.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").collect();
    let (&top, &last) = module.first().zip(module.last()).expect("a file has a name");
    if matches!(name, "lib.rs" | "main.rs") || last == "tests" {
        return Vec::new();
    }
    let Some(from) = layer(top) else {
        return vec![format!("src/{name}:1: {top} is in no layer")];
    };
    let imported = imports(&without_tests(&tokens(text)), module.len());
    let faults = imported.into_iter().filter(|import| import.text != top).filter_map(|import| {
        let to = import.text;
        match layer(to) {
            None => Some(format!("src/{name}:{}: {to} is in no layer", import.line)),
            Some(below) if below > from => None,
            Some(_) => Some(format!("src/{name}:{}: {top} imports {to}", import.line)),
        }
    });
    faults.collect()
}

/// Which row of [`LAYERS`] holds a top-level module.
fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// What one file of `proto` names that it must not. Its tests count too: they need none of it either.
fn impurities(name: &str, text: &str) -> Vec<String> {
    let impure = tokens(text).into_iter().filter(|token| IMPURE.contains(&token.text));
    impure.map(|token| format!("src/{name}:{}: proto names {}", token.line, token.text)).collect()
}

/// The names that paths reach at the root of the crate, from a file `depth` modules below it.
fn imports<'s>(tokens: &[Token<'s>], depth: usize) -> Vec<Token<'s>> {
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut found = Vec::new();
    // How many braces are open, and at how many of them a module inside the file began.
    let (mut braces, mut modules) = (0, Vec::new());
    for (at, token) in tokens.iter().enumerate() {
        let begins = word(at + 1) == "::" && (at == 0 || word(at - 1) != "::");
        match token.text {
            "{" => {
                if at >= 2 && word(at - 2) == "mod" {
                    modules.push(braces);
                }
                braces += 1;
            }
            "}" => {
                braces -= 1;
                modules.pop_if(|opened| *opened == braces);
            }
            "crate" if begins => follow(tokens, at + 2, 0, &mut found),
            "self" | "super" if begins => follow(tokens, at, depth + modules.len(), &mut found),
            _ => {}
        }
    }
    found
}

/// Follows a path, or each of a group of paths, that stands `depth` modules below the root.
fn follow<'s>(tokens: &[Token<'s>], at: usize, depth: usize, found: &mut Vec<Token<'s>>) {
    let Some(token) = tokens.get(at) else { return };
    let goes_on = tokens.get(at + 1).is_some_and(|next| next.text == "::");
    match token.text {
        "{" => group(tokens, at + 1).into_iter().for_each(|path| follow(tokens, path, depth, found)),
        "self" if goes_on => follow(tokens, at + 2, depth, found),
        "super" if goes_on && depth > 0 => follow(tokens, at + 2, depth - 1, found),
        _ if depth == 0 => found.push(*token),
        _ => {}
    }
}

/// Where the paths of a group begin, the first at `start`, behind the brace.
fn group(tokens: &[Token<'_>], start: usize) -> Vec<usize> {
    let mut begins = vec![start];
    let mut nested = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token.text {
            "{" => nested += 1,
            "}" if nested == 0 => break,
            "}" => nested -= 1,
            "," if nested == 0 => begins.push(at + 1),
            _ => {}
        }
    }
    begins.retain(|at| tokens.get(*at).is_some_and(|token| token.text != "}"));
    begins
}

/// The tokens without the items that stand under `#[cfg(test)]`.
fn without_tests<'s>(tokens: &[Token<'s>]) -> Vec<Token<'s>> {
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut rest = tokens;
    while let Some((token, after)) = rest.split_first() {
        let marked =
            rest.len() >= mark.len() && rest.iter().zip(mark).all(|(token, part)| token.text == part);
        if marked {
            rest = &rest[item_len(rest)..];
        } else {
            kept.push(*token);
            rest = after;
        }
    }
    kept
}

/// Tokens of the item at the start, its attributes included: up to a semicolon or the end of its body.
fn item_len(tokens: &[Token<'_>]) -> usize {
    let mut open = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token.text {
            "(" | "[" | "{" => open += 1,
            ")" | "]" | "}" => open = open.saturating_sub(1),
            _ => {}
        }
        if open == 0 && matches!(token.text, ";" | "}") {
            return at + 1;
        }
    }
    tokens.len()
}

/// A word, `::`, or a single other character.
#[derive(Clone, Copy)]
struct Token<'s> {
    text: &'s str,
    line: usize,
}

/// The tokens of Rust source, without comments, literals of text and the quotes of lifetimes.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while let Some(first) = rest.chars().next() {
        let skipped = ignored_len(rest, first);
        let len = if skipped > 0 { skipped } else { token_len(rest, first) };
        let (text, after) = rest.split_at(len);
        if skipped == 0 {
            tokens.push(Token { text, line });
        }
        line += text.matches('\n').count();
        rest = after;
    }
    tokens
}

fn token_len(rest: &str, first: char) -> usize {
    if is_word(first) {
        rest.find(|c| !is_word(c)).unwrap_or(rest.len())
    } else if rest.starts_with("::") {
        2
    } else {
        first.len_utf8()
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Octets of the white space, comment or literal at the start; 0 when a token stands there.
fn ignored_len(rest: &str, first: char) -> usize {
    match first {
        c if c.is_whitespace() => c.len_utf8(),
        '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
        '/' if rest.starts_with("/*") => block_comment_len(rest),
        '"' => quoted_len(rest, '"'),
        // A lifetime has no second quote: its name is an ordinary word.
        '\'' if rest[1..].starts_with('\\') || rest.chars().nth(2) == Some('\'') => quoted_len(rest, '\''),
        '\'' => 1,
        'r' | 'b' | 'c' => raw_string_len(rest),
        _ => 0,
    }
}

fn block_comment_len(rest: &str) -> usize {
    let (mut at, mut nested) = (0, 0_usize);
    while let Some(left) = rest.get(at..).filter(|left| !left.is_empty()) {
        if left.starts_with("/*") {
            (at, nested) = (at + 2, nested + 1);
        } else if left.starts_with("*/") {
            (at, nested) = (at + 2, nested - 1);
        } else {
            at += left.chars().next().map_or(1, char::len_utf8);
        }
        if nested == 0 {
            break;
        }
    }
    at
}

fn quoted_len(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    let close = rest.char_indices().skip(1).find(|(_, c)| {
        let closes = *c == quote && !escaped;
        escaped = *c == '\\' && !escaped;
        closes
    });
    close.map_or(rest.len(), |(at, _)| at + 1)
}

/// `r"…"`, `br#"…"#`; 0 for a word that only begins so, the raw `r#type` included.
fn raw_string_len(rest: &str) -> usize {
    let Some(raw) = rest.trim_start_matches(['b', 'c']).strip_prefix('r') else { return 0 };
    let body = raw.trim_start_matches('#');
    let Some(body) = body.strip_prefix('"') else { return 0 };
    let before = rest.len() - body.len();
    let hashes = raw.len() - body.len() - 1;
    let close = format!("\"{}", "#".repeat(hashes));
    before + body.find(&close).map_or(body.len(), |at| at + close.len())
}
