//! Plays the conversations of `*.smtp` (see `README.md` for their form) against the real session, in memory
//! and on a paused clock.
//!
//! One test for each file, named as the file is. What only a socket can show (resets, several
//! addresses), and what is inside TLS, is not tested here.

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
    a_421_behind_the_end_is_about_the_backend
    a_backend_from_before_ehlo_is_served_with_helo
    a_backend_lost_at_data_is_not_asked_again
    a_backend_lost_before_its_final_word_is_no_success
    a_backend_lost_in_the_middle_of_a_message
    a_backend_session_behind_a_header_serves_no_other_client
    a_backend_session_serves_another_client_once_it_is_introduced_anew
    a_backend_silent_behind_the_end_is_waited_for_ten_minutes
    a_backend_that_expects_no_header_is_a_fault_of_the_route
    a_backend_that_puts_a_client_off_is_passed_over
    a_backend_that_refuses_starttls_is_served_without
    a_backend_that_refuses_the_client_is_heard_and_not_left_alone
    a_backend_that_refuses_xclient_is_a_fault_of_the_route
    a_backend_that_relays_carries_no_unnamed_domain_and_the_others_do
    a_backend_that_takes_no_second_client_in_a_session_gets_new_ones
    a_backend_with_our_own_name_is_refused
    a_backend_without_pipelining_is_asked_one_by_one
    a_backend_without_xclient_is_a_fault_of_the_route
    a_bare_cr_in_a_command_ends_the_session
    a_bare_cr_poisons_the_message
    a_bare_lf_in_a_command_ends_the_session
    a_bare_lf_poisons_the_message
    a_blind_delivery_port_makes_good_answers_short
    a_browser_is_sent_away
    a_bypassed_network_is_not_verified
    a_chunk_that_cannot_be_counted_ends_the_session
    a_chunk_whose_line_is_too_long_ends_the_session
    a_chunk_with_a_nul_ends_the_session
    a_clean_client_has_an_old_refusal_asked_again
    a_client_cut_off_behind_xclient_is_no_sign_of_illness
    a_client_kept_out_without_a_word_is_no_sign_of_illness
    a_client_refused_anew_costs_one_kept_session
    a_client_silent_in_a_message_is_left
    a_client_that_drips_a_command_is_left
    a_client_that_every_backend_puts_off_hears_their_words
    a_client_that_goes_leaves_nothing_behind
    a_client_that_guesses_is_banned_in_all_its_sessions
    a_client_that_leaves_behind_the_end_gets_its_message_delivered
    a_client_that_leaves_does_not_take_the_answer_along
    a_client_that_vanishes_in_the_middle_of_a_message
    a_client_whose_address_is_not_known_is_not_taken_for_its_front
    a_connection_without_the_header_that_must_come_is_closed
    a_delivery_port_that_is_down_is_said_so
    a_domain_the_backend_of_every_domain_does_not_serve_is_refused
    a_domain_without_a_route_is_refused
    a_drain_ends_a_pause
    a_drain_lets_transactions_finish
    a_drain_that_takes_too_long_waits_only_for_the_backend
    a_farewell_behind_a_go_ahead_replaces_the_session
    a_farewell_to_a_recipient_is_no_acceptance
    a_file_can_be_the_mail_store
    a_front_that_sends_no_header_is_greeted_as_itself
    a_full_mailbox_exists
    a_go_ahead_behind_a_refused_sender_ends_the_backend_session
    a_go_ahead_for_nobody_ends_the_backend_session
    a_go_ahead_read_for_a_recipient_and_nothing_behind_condemns_the_backend_session
    a_go_ahead_read_for_a_recipient_condemns_the_backend_session
    a_go_ahead_replaced_by_a_farewell_replaces_the_session
    a_go_ahead_that_is_not_wanted_ends_the_backend_session
    a_go_ahead_to_a_recipient_is_no_acceptance
    a_good_recipient_is_asked_again_behind_the_scenes
    a_good_recipient_outlives_its_store
    a_greeting_a_backend_refuses_is_the_clients_affair
    a_greeting_in_the_place_of_an_answer_condemns_the_backend_session
    a_greeting_refused_behind_xclient_is_the_clients_answer
    a_greeting_that_refuses_a_header_never_taken_is_a_fault_of_the_route
    a_greylisted_probe_lets_the_client_try
    a_handshake_that_fails_ends_the_session
    a_handshake_that_hangs_leaves_time_to_go_on_without
    a_header_from_a_stranger_closes_the_connection
    a_header_names_the_client_to_the_backend
    a_header_of_version_1_without_end_closes_the_connection
    a_header_of_version_2_names_the_client
    a_header_says_that_the_client_is_the_front_itself
    a_header_that_does_not_come_is_not_waited_for_long
    a_header_where_none_is_taken_ends_the_session
    a_helo_client_gets_no_extensions
    a_hidden_keyword_is_not_offered
    a_kept_session_found_dead_is_replaced_silently
    a_kept_session_gives_way_where_there_are_too_many
    a_kept_session_that_ends_over_a_second_client_is_replaced
    a_kept_session_that_said_something_unasked_is_not_used
    a_known_recipient_gets_the_message
    a_late_header_comes_behind_the_greeting
    a_late_header_is_waited_for_as_long_as_a_command
    a_late_header_need_not_come
    a_limit_met_by_xclient_ends_the_session
    a_line_is_put_before_a_message_also_where_the_client_is_told
    a_line_put_before_a_message_tells_no_recipient_of_another
    a_line_that_is_nearly_a_header_closes_the_connection
    a_line_too_long_is_read_to_its_end
    a_live_policy_refusal_teaches_nothing
    a_live_refusal_beats_the_cache
    a_message_announced_too_large_is_refused_at_mail
    a_message_at_the_lowest_pace_passes
    a_message_has_one_line_put_before_it
    a_message_in_chunks
    a_message_in_chunks_that_drips_is_not_waited_for
    a_message_larger_than_the_smallest_backend_takes_is_refused_at_mail
    a_message_of_the_largest_size_passes
    a_message_passes_unchanged
    a_message_refused_at_data_for_one_recipient_is_sent_to_each_alone
    a_message_refused_early_for_one_recipient_is_sent_to_each_alone
    a_message_refused_for_its_only_recipient_is_refused
    a_message_refused_for_one_recipient_is_passed_on_in_a_shadow
    a_message_refused_for_one_recipient_is_sent_to_each_alone
    a_message_that_becomes_too_large_is_refused
    a_message_that_drips_is_not_waited_for
    a_non_ascii_recipient_is_asked_about_with_smtputf8
    a_nul_in_a_command_goes_nowhere
    a_parameter_in_utf_8_needs_smtputf8
    a_policy_against_our_probe_lets_the_client_try
    a_probe_cut_off_is_asked_again
    a_question_sees_three_sessions_end_at_most
    a_recipient_the_backend_refuses_shifts_nobody
    a_refusal_comes_after_a_pause_that_doubles
    a_refusal_in_several_lines_is_passed_on
    a_refused_chunk_is_consumed
    a_refused_go_ahead_is_passed_on
    a_refused_message_is_refused_in_the_backends_words
    a_refused_null_sender_is_replaced
    a_refused_recipient_hears_so_whatever_becomes_of_data
    a_relay_for_the_world_serves_no_bypassed_network
    a_relay_for_the_world_serves_no_unnamed_domain
    a_relay_for_the_world_serves_nobody_in_a_shadow
    a_relay_for_the_world_serves_nobody_unverified
    a_relay_for_the_world_serves_nobody_whatever_unknown_means
    a_relay_that_only_refuses_for_what_dns_says_serves_no_unnamed_domain
    a_relay_that_refuses_a_foreign_sender_serves_no_unnamed_domain
    a_relay_that_trusts_a_sender_of_ours_serves_no_unnamed_domain
    a_removed_mailbox_is_refused_at_once
    a_reply_that_is_none_loses_the_session
    a_reply_too_many_condemns_the_backend_session
    a_reply_too_many_in_the_place_of_a_go_ahead_condemns_the_backend_session
    a_run_behind_the_first_part_of_which_its_backend_is_gone_is_not_looked_up_further
    a_run_of_recipients_behind_a_refused_sender
    a_second_header_ends_the_session
    a_second_header_of_version_2_ends_the_session
    a_second_transaction_uses_the_same_backend_session
    a_sender_refused_behind_the_first_part_of_a_run_ends_the_transaction
    a_sender_refused_late_is_given_at_the_recipient
    a_server_that_knows_no_foreign_mailbox_relays_for_nobody
    a_server_that_refuses_to_relay_for_policy_relays_for_nobody
    a_session_has_its_time
    a_session_lost_before_the_message_is_replaced_once
    a_session_lost_between_the_parts_of_a_run_gives_all_of_it_again
    a_session_lost_in_the_second_part_of_a_run_gives_all_of_it_again
    a_session_lost_in_the_second_part_of_a_run_may_not_forget_the_first
    a_session_lost_twice_ends_the_transaction
    a_shadow_only_watches
    a_silent_backend_in_the_envelope_is_lost
    a_silent_front_is_greeted_as_itself
    a_size_counts_the_longest_name_it_may_have_to_carry
    a_size_counts_what_is_put_before_the_message
    a_slow_message_makes_way_where_connections_are_scarce
    a_source_route_is_stripped
    a_store_that_does_not_serve_the_domain_says_nothing_about_recipients
    a_store_that_is_down_is_no_answer
    a_store_that_is_slow_is_no_answer
    a_store_that_takes_anyone_at_data_too_is_passed
    a_store_that_takes_anyone_is_asked_at_data
    a_stranger_cannot_send_the_header_that_others_may
    a_taken_recipient_is_not_a_known_one
    a_temporary_answer_is_given_where_that_is_wanted
    a_transaction_has_one_route
    a_transaction_takes_so_many_recipients
    a_truncated_version_2_closes_the_connection
    a_truthful_store_is_tested_with_a_name_nobody_has
    a_vanished_user_table_is_not_believed
    a_version_2_shorter_than_its_family_closes_the_connection
    a_version_2_with_a_wrong_checksum_closes_the_connection
    a_version_2_with_torn_extensions_closes_the_connection
    a_whole_transaction_in_one_segment
    an_acceptance_behind_the_go_ahead_is_never_believed
    an_acceptance_instead_of_a_go_ahead_is_no_success
    an_accepted_recipient_lifts_the_limit_of_a_session
    an_accepted_recipient_taken_back_ends_the_transaction
    an_early_acceptance_is_never_believed
    an_early_refusal_is_the_answer_to_the_message
    an_early_refusal_of_a_chunk
    an_envelope_has_four_minutes_in_all
    an_extension_assumed_and_missing_is_temporary
    an_extension_lost_after_it_was_offered_is_temporary
    an_idle_client_is_left
    an_idle_transaction_makes_way_where_connections_are_scarce
    an_ipv6_network_is_banned_as_one_client
    an_overlong_version_2_closes_the_connection
    an_unknown_recipient_is_asked_about_again_in_time
    an_unknown_recipient_is_refused_in_the_backends_words
    bad_recipients_sent_together_are_errors_too
    bare_newlines_are_normalised_where_that_is_wanted
    chunks_are_not_taken_where_they_were_not_offered
    chunks_count_towards_the_largest_size
    chunks_the_backend_no_longer_takes_are_consumed
    commands_out_of_order_are_refused
    connections_are_counted_by_the_true_client
    data_does_not_follow_chunks
    data_goes_out_with_the_envelope
    data_may_be_what_counts
    data_of_a_binary_message_is_not_passed_on
    data_refused_for_nobody_ends_the_backend_session
    every_command_has_its_answer
    everything_said_before_the_end_is_answered
    exchange_2010_is_left_before_it_has_had_enough_errors
    exchange_2010_refuses_a_recipient_after_its_tarpit
    exchange_2010_that_has_had_enough_errors_is_asked_again
    exchange_2013_at_25_alone_refuses_whole_messages
    exchange_2013_is_asked_at_2525_and_delivered_to_at_25
    exchange_online_refuses_at_its_edge
    guesses_sent_together_get_no_further_than_the_limit
    in_shadow_mode_nobody_is_held_to_guess
    lists_decide_without_asking
    mail_waits_for_tls_where_it_is_required
    malformed_commands_are_refused
    nobody_is_kept_waiting_who_holds_what_others_wait_for
    nothing_is_asked_where_verification_is_off
    octets_behind_starttls_end_the_session
    octets_behind_the_backends_220_are_an_error
    offers_are_what_every_backend_announced
    one_of_several_delivery_ports_that_takes_anyone_makes_good_answers_short
    one_probe_serves_all_who_ask_at_once
    one_recipient_a_transaction_where_the_store_takes_no_more
    only_a_250_takes_a_chunk
    only_a_250_takes_a_message
    only_so_many_headers_are_waited_for
    parameters_reach_the_backend_as_written
    parameters_that_were_not_offered_are_refused
    private_and_exempt_clients_may_guess
    recipients_go_out_sixteen_at_a_time
    recipients_keep_their_answers_where_none_comes_to_data
    recipients_sent_together_are_asked_about_together
    recipients_share_a_transaction_once_the_store_has_shown_it_takes_several
    required_tls_is_never_done_without
    routed_recipients_are_refused
    routed_recipients_pass_where_that_is_wanted
    rset_gives_the_backend_session_back
    silent_fronts_make_way_where_places_are_scarce
    stuffed_dots_do_not_count_towards_the_largest_size
    ten_unknown_recipients_end_a_session
    the_bare_postmaster_goes_to_the_first_route
    the_end_is_not_written_behind_an_early_reply
    the_end_of_a_message_may_come_in_pieces
    the_end_of_input_within_a_message_is_an_abort
    the_final_word_reaches_a_half_closed_client
    the_last_chunk_may_be_empty
    the_next_backend_of_the_route_is_tried
    the_rest_of_a_long_reply_line_is_cut
    tls_refused_to_one_client_is_not_given_up_for_others
    too_many_connections_is_waited_out
    too_many_errors_end_the_session
    two_answers_to_ehlo_condemn_the_backend_session
    two_greetings_condemn_the_backend_session
    two_refused_senders_say_nothing_about_a_recipient
    what_comes_during_a_pause_is_heard_behind_it
    what_is_offered_follows_a_backend_that_is_told_the_client
    who_a_header_names_may_not_name_another
    who_speaks_before_the_greeting_is_refused
    whom_a_front_named_cannot_name_another
    whom_nobody_can_ask_about_is_accepted_where_that_is_wanted
    xclient_attributes_with_line_ends_are_refused
    xclient_is_not_taken_from_strangers
    xclient_names_the_client_to_the_backend
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

/// What would make every other test here worthless: a stage that takes what was not said for said.
#[tokio::test(start_paused = true)]
async fn a_transcript_that_is_not_true_fails() {
    for (text, line, fault) in [
        ("S: 221 Bye", 1, "at the client: expected \"221 Bye\", came \"220 mx.example.org ESMTP\""),
        ("S: 22*\nS: 250 Ok", 2, "at the client: expected \"250 Ok\", nothing came"),
        ("S: 22*\nS: <closed>", 2, "at the client: expected the connection to be closed, but it stayed open"),
        (
            "S: <closed>",
            1,
            "at the client: expected the connection to be closed, came \"220 mx.example.org ESMTP\\r\\n\"",
        ),
        ("S: <silent>", 1, "at the client: expected nothing, came \"220 mx.example.org ESMTP\\r\\n\""),
        (
            "C: NOOP",
            1,
            "after the last line: at the client: expected nothing, came \"220 mx.example.org ESMTP\\r\\n250 2.0.0 Ok\\r\\n\"",
        ),
        (
            "C: QUIT\nS: 220*\nS: 221*",
            3,
            "after the last line: at the client: expected nothing, but the connection was closed",
        ),
        ("B1: <connect>", 1, "expected a new connection to a backend, none came"),
        ("B1> 220 hello", 1, "at backend connection 1: it is not connected"),
        ("@ start\nB2: <connect>", 2, "the next connection is B1"),
        (
            "@ start\nB1: <connect>\nB1> 220 hello",
            3,
            "after the last line: at backend connection 1: expected nothing, came \"EHLO mx.example.org\\r\\n\"",
        ),
        ("@ start\n@ +1ms", 2, "after the last line: a backend was connected to, and no line expected it"),
    ] {
        let script = script::Script::parse(text).unwrap();
        let told = stage::play("not_true", script).await.unwrap_err();
        assert_eq!((told.line, told.text.as_str()), (line, fault), "{text:?}");
    }
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
