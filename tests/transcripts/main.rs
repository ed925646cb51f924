//! Plays the conversations of `*.smtp` (see `README.md` for their form) against the real session, in memory
//! and on a paused clock.
//!
//! One test for each file, named as the file is. What only a socket can show (resets, TLS, several
//! addresses) is not tested here.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod script;
mod stage;
mod wire;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A test for each file, and the list of them.
macro_rules! transcripts {
    ($($name:ident)+) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $name() {
                play(stringify!($name)).await;
            }
        )+

        const LISTED: &[&str] = &[$(stringify!($name)),+];
    };
}

transcripts! {
    a_backend_with_our_own_name_is_refused
    a_bare_cr_in_a_command_ends_the_session
    a_bare_lf_in_a_command_ends_the_session
    a_browser_is_sent_away
    a_bypassed_network_is_not_verified
    a_client_that_drips_a_command_is_left
    a_client_that_goes_leaves_nothing_behind
    a_client_that_leaves_does_not_take_the_answer_along
    a_domain_without_a_route_is_refused
    a_file_can_be_the_mail_store
    a_full_mailbox_exists
    a_greylisted_probe_lets_the_client_try
    a_known_recipient_gets_the_message
    a_line_too_long_is_read_to_its_end
    a_live_policy_refusal_teaches_nothing
    a_live_refusal_beats_the_cache
    a_nul_in_a_command_goes_nowhere
    a_policy_against_our_probe_lets_the_client_try
    a_probe_cut_off_is_asked_again
    a_question_sees_three_sessions_end_at_most
    a_refusal_in_several_lines_is_passed_on
    a_refused_null_sender_is_replaced
    a_session_has_its_time
    a_shadow_only_watches
    a_source_route_is_stripped
    a_store_that_does_not_serve_the_domain_says_nothing_about_recipients
    a_store_that_is_down_is_no_answer
    a_store_that_is_slow_is_no_answer
    a_taken_recipient_is_not_a_known_one
    a_temporary_answer_is_given_where_that_is_wanted
    a_transaction_has_one_route
    a_transaction_takes_so_many_recipients
    an_idle_client_is_left
    an_unknown_recipient_is_asked_about_again_in_time
    an_unknown_recipient_is_refused_in_the_backends_words
    commands_out_of_order_are_refused
    every_command_has_its_answer
    everything_said_before_the_end_is_answered
    lists_decide_without_asking
    malformed_commands_are_refused
    nothing_is_asked_where_verification_is_off
    one_probe_serves_all_who_ask_at_once
    routed_recipients_are_refused
    routed_recipients_pass_where_that_is_wanted
    the_bare_postmaster_goes_to_the_first_route
    too_many_errors_end_the_session
    two_refused_senders_say_nothing_about_a_recipient
    whom_nobody_can_ask_about_is_accepted_where_that_is_wanted
}

#[test]
fn every_transcript_is_played() {
    let entries = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path());
    let scripts = entries.filter(|path| path.extension().is_some_and(|extension| extension == "smtp"));
    let files: BTreeSet<_> =
        scripts.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let listed: BTreeSet<_> = LISTED.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(files, listed, "files, and the list in this file");
}

async fn play(name: &str) {
    let path = directory().join(name).with_extension("smtp");
    let text = fs::read_to_string(&path).unwrap();
    let told = match script::Script::parse(&text) {
        Ok(script) => stage::play(name, script).await,
        Err(fault) => Err(fault),
    };
    if let Err(fault) = told {
        panic!("tests/transcripts/{name}.smtp:{fault}");
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}
