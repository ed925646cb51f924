//! `backstop man` and `backstop completions`: made of the command line itself, so that they cannot differ
//! from it.
//!
//! One manual page holds all commands. What no argument says (files, signals, exit statuses) is written here.

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::terminal::print;
use super::{Arguments, Exit};

#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// Whose.
    shell: Shell,
}

/// Prints the completions of a shell.
pub(super) fn completions(arguments: &Completions) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "backstop", &mut script);
    print(String::from_utf8_lossy(&script));
    Exit::Done
}

/// Prints the manual page.
pub(super) fn man() -> Exit {
    print(page(Arguments::command()));
    Exit::Done
}

fn page(mut command: Command) -> String {
    command.build();
    let top = Man::new(command.clone()).section("8").manual("System administration");
    // Writing to memory does not fail.
    let mut roff = Vec::new();
    let _ = top.render_title(&mut roff);
    let _ = top.render_name_section(&mut roff);
    let _ = top.render_synopsis_section(&mut roff);
    let mut page = String::from_utf8_lossy(&roff).into_owned();
    page.push_str(DESCRIPTION);
    page.push_str(".SH COMMANDS\n");
    commands(&command, &mut page);
    page.push_str(REST);
    page
}

/// A subsection for each command that does something, also for those below it.
fn commands(command: &Command, page: &mut String) {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        // What takes options for all commands below it has a subsection for them.
        if !sub.has_subcommands() || takes_options(sub) {
            page.push_str(&subsection(sub));
        }
        commands(sub, page);
    }
}

fn takes_options(command: &Command) -> bool {
    command.get_arguments().any(|argument| !argument.is_global_set() && argument.get_id() != "help")
}

fn subsection(command: &Command) -> String {
    let man = Man::new(command.clone());
    let mut roff = Vec::new();
    let _ = man.render_synopsis_section(&mut roff);
    let _ = man.render_description_section(&mut roff);
    let _ = man.render_options_section(&mut roff);
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let mut text = String::from_utf8_lossy(&roff).replace(".SH SYNOPSIS", &format!(".SS \"{name}\""));
    text = text.replace(".SH DESCRIPTION", ".PP").replace(".SH OPTIONS\n", "");
    if let Some(help) = command.get_after_help() {
        text.push_str(&format!(".PP\n.nf\n{}\n.fi\n", escaped(&help.to_string())));
    }
    text
}

/// Text that roff takes as it stands.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('-', "\\-");
    // A dot or a quote at the start of a line would be a request.
    text.lines()
        .map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() })
        .collect::<Vec<_>>()
        .join("\n")
}

const DESCRIPTION: &str = r".SH DESCRIPTION
Backstop stands on port 25 before a mail server that accepts mail for anyone and bounces later. It asks that server
about each recipient while the client waits, refuses in the session what the server does not know, and passes
everything else through while it arrives. It has no queue: the final 250 a client hears is always the server's own.
";

const REST: &str = r#".SH FILES
.TP
.I ./backstop.toml
The configuration, where no
.B \-\-config
is given; else
.TP
.I /etc/backstop/backstop.toml
The configuration.
.B backstop config default
prints one with a comment for every key.
.SH ENVIRONMENT
.TP
.B BACKSTOP__SECTION__KEY
A configuration key; it beats the file. The key limits.max_errors is BACKSTOP__LIMITS__MAX_ERRORS.
.SH SIGNALS
.TP
.BR SIGTERM ", " SIGINT
Drain and end: no new clients, idle sessions get 421, open transactions may finish. A second one ends at once.
.TP
.B SIGHUP
Read the configuration and the certificates again, all or nothing.
.SH EXIT STATUS
.TP
.B 0
All went as it should.
.TP
.B 1
Something did not.
.TP
.B 67
A recipient is unknown.
.TP
.B 69
The admin endpoint does not answer.
.TP
.B 71
An address cannot be listened on.
.TP
.B 75
A recipient could not be verified.
.TP
.B 78
The configuration is wrong.
.SH SEE ALSO
.BR postfix (1),
.BR exim (8),
.BR systemd.unit (5).
RFC 5321 is the protocol, RFC 3463 has the meaning of enhanced status codes.
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_page_has_every_command_and_every_option() {
        let page = page(Arguments::command());
        let mut all = Arguments::command();
        all.build();
        let mut open: Vec<&Command> = all.get_subcommands().collect();
        let mut options = 0;
        while let Some(command) = open.pop() {
            open.extend(command.get_subcommands());
            let is_help = command.get_bin_name().is_some_and(|name| name.contains("help"));
            if is_help || command.has_subcommands() && !takes_options(command) {
                continue;
            }
            let heading = format!(".SS \"{}\"\n", command.get_bin_name().unwrap());
            assert_eq!(page.matches(&heading).count(), 1, "{heading} in {page}");
            for option in command.get_arguments().filter_map(|argument| argument.get_long()) {
                assert!(page.contains(&escaped(&format!("--{option}"))), "--{option} in {page}");
                options += 1;
            }
        }
        assert!(options > 20, "{options}");
    }

    #[test]
    fn text_is_not_taken_for_a_request() {
        assert_eq!(escaped(".x\n'y\na\\b-c"), "\\&.x\n\\&'y\na\\\\b\\-c");
    }
}
