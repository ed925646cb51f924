//! `backstop report`: what a running proxy refused, or in shadow mode would have refused, by route and cause.
//!
//! It is read before one dares to enforce. Numbers count from the start of the proxy; who exactly was refused is in
//! its log.

use std::fmt::Write as _;

use hyper::Method;
use serde::Deserialize;

use super::Exit;
use super::admin_client::{AdminClient, AdminEndpoint};
use super::cache::error_in;
use super::terminal::{print, print_line, say};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminEndpoint,
}

/// What the endpoint says; it may say more.
#[derive(Debug, Deserialize)]
struct Refusals {
    seconds: u64,
    routes: Vec<Route>,
    counts: Vec<Count>,
}

#[derive(Debug, Deserialize)]
struct Route {
    name: String,
    mode: String,
    accepted: u64,
}

#[derive(Debug, Deserialize)]
struct Count {
    route: String,
    cause: String,
    meaning: String,
    refused: u64,
    would_refuse: u64,
}

/// Asks the proxy and prints what it says.
pub(super) async fn report(arguments: &Arguments) -> Exit {
    let told = match AdminClient::new(&arguments.admin) {
        Ok(client) => client.ask(Method::GET, "/api/v1/refusals").await,
        Err(fault) => Err(fault),
    };
    let body = match told {
        Ok((status, body)) if status.is_success() => body,
        Ok((status, body)) => {
            say(format_args!("{status}: {}", error_in(&body)));
            return Exit::Unavailable;
        }
        Err(fault) => {
            say(fault);
            return Exit::Unavailable;
        }
    };
    match serde_json::from_str::<Refusals>(&body) {
        Ok(refusals) if arguments.json => print_line(as_json(&refusals)),
        Ok(refusals) => print(as_text(&refusals)),
        Err(fault) => {
            say(format_args!("the answer is not that of this version: {fault}"));
            return Exit::Unavailable;
        }
    }
    Exit::Done
}

fn as_json(refusals: &Refusals) -> serde_json::Value {
    let counts = refusals.counts.iter().map(|count| {
        serde_json::json!({
            "route": count.route,
            "cause": count.cause,
            "meaning": count.meaning,
            "refused": count.refused,
            "would_refuse": count.would_refuse,
        })
    });
    let routes = refusals.routes.iter().map(
        |route| serde_json::json!({ "name": route.name, "mode": route.mode, "accepted": route.accepted }),
    );
    serde_json::json!({
        "seconds": refusals.seconds,
        "routes": routes.collect::<Vec<_>>(),
        "counts": counts.collect::<Vec<_>>(),
    })
}

/// A table for each route, the most frequent cause first.
fn as_text(refusals: &Refusals) -> String {
    let mut text = format!("Since the start, {} ago:\n", lasting(refusals.seconds));
    for route in &refusals.routes {
        let _ =
            writeln!(text, "\nroute {} ({}): {} recipients accepted", route.name, route.mode, route.accepted);
        table(&mut text, &refusals.counts, &route.name);
        let shadow: u64 = counts_of(&refusals.counts, &route.name).map(|count| count.would_refuse).sum();
        if shadow > 0 && route.mode == "shadow" {
            let _ = writeln!(
                text,
                "  Those that would be refused were passed on. The log names each: grep for `would be refused`."
            );
        }
    }
    if counts_of(&refusals.counts, "").next().is_some() {
        text.push_str("\ndomains without a route:\n");
        table(&mut text, &refusals.counts, "");
    }
    text
}

fn table(text: &mut String, counts: &[Count], route: &str) {
    let mut rows: Vec<&Count> = counts_of(counts, route).collect();
    if rows.is_empty() {
        text.push_str("  nothing was refused\n");
        return;
    }
    rows.sort_by_key(|count| std::cmp::Reverse(count.refused + count.would_refuse));
    let _ = writeln!(text, "  {:>10}  {:>13}  cause", "refused", "would refuse");
    for Count { cause, meaning, refused, would_refuse, .. } in rows {
        let _ = writeln!(text, "  {refused:>10}  {would_refuse:>13}  {cause:<17} {meaning}");
    }
}

fn counts_of<'c>(counts: &'c [Count], route: &str) -> impl Iterator<Item = &'c Count> {
    counts.iter().filter(move |count| count.route == route)
}

fn lasting(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_most_frequent_cause_first() {
        let count = |route: &str, cause: &str, refused, would_refuse| Count {
            route: route.to_owned(),
            cause: cause.to_owned(),
            meaning: "why".to_owned(),
            refused,
            would_refuse,
        };
        let refusals = Refusals {
            seconds: 90_000,
            routes: ["mail", "quiet"]
                .map(|name| Route { name: name.to_owned(), mode: "shadow".to_owned(), accepted: 5 })
                .into(),
            counts: vec![
                count("", "no-route", 2, 0),
                count("mail", "timeout", 0, 1),
                count("mail", "unknown", 0, 12),
            ],
        };
        let expected = "Since the start, 1 d 1 h ago:\n\n\
            route mail (shadow): 5 recipients accepted\n\
            \x20    refused   would refuse  cause\n\
            \x20          0             12  unknown           why\n\
            \x20          0              1  timeout           why\n\
            \x20 Those that would be refused were passed on. The log names each: grep for `would be refused`.\n\n\
            route quiet (shadow): 5 recipients accepted\n\
            \x20 nothing was refused\n\n\
            domains without a route:\n\
            \x20    refused   would refuse  cause\n\
            \x20          2              0  no-route          why\n";
        assert_eq!(as_text(&refusals), expected);
    }
}
