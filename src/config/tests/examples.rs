//! What operators copy: the whole files under `deploy`, and the pieces in the documents. Each loads as it stands, but for
//! the directory of an operator's own files; what needs no route is given one.

use std::path::Path;

use super::*;

#[test]
fn every_example_file_is_a_configuration() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let mut examples = Vec::new();
    files_below(&deploy, "toml", &mut examples);
    assert!(examples.len() >= 9, "{examples:?}");
    for path in examples {
        let found = problems(&path.to_string_lossy(), &fs::read_to_string(&path).unwrap());
        assert_eq!(found, Vec::<String>::new(), "{}", path.display());
    }
}

#[test]
fn every_piece_of_configuration_in_the_documents_is_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md")];
    ["docs", "deploy"].iter().for_each(|below| files_below(&root.join(below), "md", &mut pages));
    let mut read = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for (line, piece) in pieces(&text) {
            let place = format!("{}:{line}", page.strip_prefix(root).unwrap().display());
            let whole = if piece.contains("[[route]]") { piece } else { with_route(&piece) };
            assert_eq!(problems(&place, &whole), Vec::<String>::new(), "{place}\n{whole}");
            read += 1;
        }
    }
    assert!(read >= 20, "only {read} were found");
}

/// The blocks of TOML in a page, also those within the values of a chart (`config: |`), each with the line it begins in.
fn pieces(page: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = page.lines().collect();
    let mut found = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let after = &lines[number + 1..];
        let piece: Vec<&str> = match *line {
            "```toml" => after.iter().copied().take_while(|line| *line != "```").collect(),
            "config: |" => after
                .iter()
                .map_while(|line| line.strip_prefix("  ").or_else(|| line.is_empty().then_some("")))
                .collect(),
            _ => continue,
        };
        found.push((number + 1, piece.join("\n")));
    }
    found
}

/// All files with this ending below `directory`.
fn files_below(directory: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files_below(&path, ending, found);
        } else if path.extension().is_some_and(|end| end == ending) {
            found.push(path);
        }
    }
}

/// The files an operator has in /etc/backstop.
fn lay_out(directory: &Path) {
    let (tls, secrets) = (directory.join("tls"), directory.join("secrets"));
    fs::create_dir_all(&tls).unwrap();
    fs::create_dir_all(&secrets).unwrap();
    ["admin", "cache"].iter().for_each(|name| fs::write(secrets.join(name), "a-long-random-text\n").unwrap());
    let pair = rcgen::generate_simple_self_signed(["mx.example.org".to_owned()]).unwrap();
    for name in ["tls/fullchain.pem", "tls/tls.crt", "tls/corp-ca.pem", "tls.crt", "other.crt"] {
        fs::write(directory.join(name), pair.cert.pem()).unwrap();
    }
    for name in ["tls/privkey.pem", "tls/tls.key", "tls.key", "other.key"] {
        fs::write(directory.join(name), pair.signing_key.serialize_pem()).unwrap();
    }
}

/// The faults and warnings of a configuration that was read at `place`.
fn problems(place: &str, text: &str) -> Vec<String> {
    let files = Files::new(&place.replace('/', "-"));
    lay_out(&files.0);
    let text = text.replace("/etc/backstop", &files.0.to_string_lossy());
    match load_in(&Source::File(files.write("backstop.toml", &text)), &environment(&[])) {
        Ok(loaded) => loaded.warnings.iter().map(|warning| format!("{warning:?}")).collect(),
        Err(faults) => faults.faults.iter().map(|fault| format!("{fault:?}")).collect(),
    }
}
