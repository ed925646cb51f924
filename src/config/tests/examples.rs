//! The whole files under `deploy`: each loads as it stands, but for the directory of an operator's own files.

use std::collections::BTreeSet;

use super::super::read::without_places;
use super::*;

#[test]
fn every_example_file_is_a_configuration() {
    let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy");
    let mut examples = Vec::new();
    files_below(deploy.as_ref(), &mut examples);
    assert!(examples.len() >= 9, "{examples:?}");
    let unknown: BTreeSet<String> = examples.iter().flat_map(|path| unknown_keys(path)).collect();
    assert!(unknown.is_empty(), "unknown keys in files under deploy: {unknown:?}");
}

/// All configurations below `directory`.
fn files_below(directory: &std::path::Path, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files_below(&path, found);
        } else if path.extension().is_some_and(|end| end == "toml") {
            found.push(path);
        }
    }
}

/// The files an operator has in /etc/backstop.
fn lay_out(directory: &std::path::Path) {
    let (tls, secrets) = (directory.join("tls"), directory.join("secrets"));
    fs::create_dir_all(&tls).unwrap();
    fs::create_dir_all(&secrets).unwrap();
    ["admin", "cache"].iter().for_each(|name| fs::write(secrets.join(name), "a-long-random-text\n").unwrap());
    let pair = rcgen::generate_simple_self_signed(["mx.example.org".to_owned()]).unwrap();
    for name in ["fullchain.pem", "tls.crt", "corp-ca.pem"] {
        fs::write(tls.join(name), pair.cert.pem()).unwrap();
    }
    for name in ["privkey.pem", "tls.key"] {
        fs::write(tls.join(name), pair.signing_key.serialize_pem()).unwrap();
    }
}

/// Loads the file. There must be no other fault in it, and no warning.
fn unknown_keys(path: &std::path::Path) -> Vec<String> {
    let name = path.to_string_lossy().replace('/', "-");
    let files = Files::new(&name);
    lay_out(&files.0);
    let text = fs::read_to_string(path).unwrap();
    let text = text.replace("/etc/backstop", &files.0.to_string_lossy());
    let faults = match load_in(&Source::File(files.write("backstop.toml", &text)), &environment(&[])) {
        Ok(loaded) => {
            assert_eq!(loaded.warnings, Vec::new(), "{name}");
            return Vec::new();
        }
        Err(faults) => faults.faults,
    };
    let others: Vec<_> = faults.iter().filter(|fault| fault.reason != "unknown key").collect();
    assert!(others.is_empty(), "{name}: {others:?}");
    faults.iter().map(|fault| without_places(&fault.key)).collect()
}
