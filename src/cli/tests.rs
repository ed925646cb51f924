//! The command line, and that what is deployed and written about it is so.

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;

use super::*;

#[test]
fn the_command_line_is_well_formed() {
    Arguments::command().debug_assert();
}

/// Whoever types `--help` sees how each command is typed, and what stands there can be.
#[test]
fn each_help_has_examples_that_are_commands() {
    let mut program = Arguments::command();
    program.build();
    let mut all = vec![program.clone()];
    all.extend(program.get_subcommands().cloned());
    let untold = ["man", "help"];
    for command in all.iter().filter(|command| !untold.contains(&command.get_name())) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples: Vec<_> = help.split(['\n', '&', '|', '<', '>']).filter_map(ours).collect();
        assert!(!examples.is_empty(), "{} shows no example", command.get_name());
        for line in examples {
            if let Err(fault) = Arguments::try_parse_from(line.split_whitespace()) {
                panic!("{}: {line}\n{fault}", command.get_name());
            }
        }
    }
}

/// What containers and units start must be a command line of this binary.
#[test]
fn what_is_deployed_starts() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    for (file, start, end) in [
        ("Dockerfile", "CMD [\"run\"", "]"),
        ("kustomize/base/deployment.yaml", "args: [run", "]"),
        ("helm/backstop/templates/workload.yaml", "args: [run", "]"),
        ("systemd/backstop.service", "ExecStart=/usr/bin/backstop run", "\n"),
    ] {
        let text = fs::read_to_string(deploy.join(file)).unwrap();
        let (_, behind) = text.split_once(start).unwrap_or_else(|| panic!("{file} starts nothing"));
        let (rest, _) = behind.split_once(end).unwrap();
        let words = rest.split([',', ' ', '"']).filter(|word| !word.is_empty());
        let line = ["backstop", "run"].into_iter().chain(words);
        Arguments::try_parse_from(line).unwrap_or_else(|fault| panic!("{file}: {fault}"));
    }
}

/// What the documents tell an operator to type must be a command line of this binary.
#[test]
fn what_the_documents_say_to_type_is_a_command() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md"), root.join("deploy/helm/backstop/README.md")];
    pages.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let mut seen = 0;
    for page in pages.iter().filter(|page| page.extension().is_some_and(|end| end == "md")) {
        let text = fs::read_to_string(page).unwrap();
        for line in typed(&text).into_iter().chain(quoted(&text)) {
            let words = line.split_whitespace().map(|word| word.trim_matches(['"', '\'']));
            if let Err(fault) = Arguments::try_parse_from(words) {
                // Within the text a command may be meant, not typed.
                let named = fault.kind() == clap::error::ErrorKind::MissingRequiredArgument
                    && quoted(&text).contains(&line);
                assert!(named, "{}: {line}\n{fault}", page.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 60, "only {seen} were found");
}

/// Our commands in the blocks of shell, each without what follows it in its line.
fn typed(page: &str) -> Vec<String> {
    let blocks = page.split("\n```sh\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    let commands = blocks.flat_map(|block| block.split(['\n', ';', '|', '&', '<', '>', '#']));
    commands.filter_map(ours).collect()
}

/// Our commands within the text, but for those that leave something out.
fn quoted(page: &str) -> Vec<String> {
    let pieces = page.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    pieces
        .filter(|piece| !piece.contains('…'))
        .flat_map(|piece| piece.split(['|', '&', '>']))
        .filter_map(ours)
        .collect()
}

fn ours(command: &str) -> Option<String> {
    let command = command.trim();
    command.starts_with("backstop ").then(|| command.to_owned())
}

/// The image is built from what its file copies, of what the ignore file lets through: a file that the source includes must be
/// among both.
#[test]
fn the_image_is_built_from_all_that_the_source_includes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dockerfile = fs::read_to_string(root.join("deploy/Dockerfile")).unwrap();
    let ignore = fs::read_to_string(root.join(".dockerignore")).unwrap();
    let mut included = Vec::new();
    included_below(&root.join("src"), &mut included);
    let outside: Vec<_> = included.iter().filter_map(|file| file.strip_prefix(root).ok()).collect();
    let outside: Vec<_> =
        outside.iter().filter(|file| !file.starts_with("src")).map(|file| file.display()).collect();
    assert!(!outside.is_empty(), "the source includes nothing: {included:?}");
    for file in outside {
        assert!(
            dockerfile.contains(&format!("COPY {file} {file}\n")),
            "deploy/Dockerfile does not copy {file}"
        );
        assert!(ignore.contains(&format!("!{file}\n")), ".dockerignore keeps {file} out");
    }
}

/// The files that `include_str!` names below `directory`, tests left out.
fn included_below(directory: &Path, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            included_below(&path, found);
        } else if path.file_name().is_some_and(|name| name != "tests.rs") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let names = text.split("include_str!(\"").skip(1).filter_map(|rest| rest.split('"').next());
            found.extend(names.filter_map(|name| path.parent()?.join(name).canonicalize().ok()));
        }
    }
}
