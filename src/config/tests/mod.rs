//! Whole configurations: what the keys mean, and what the default file says about them.

mod examples;
mod faults;
mod reference;
mod sources;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::proto::address::{Domain, LocalCase, Mailbox};
use crate::proto::tls::TlsVersion;

/// The least that must be written.
const ROUTE: &str = "[[route]]\ndomains = [\"example.org\"]\nbackends = [\"10.0.0.5:25\"]\n";

/// A directory of files that goes away with the test.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("backstop-config-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Environment { variables, host_name: "mx.example.org".to_owned(), search: Vec::new() }
}

/// Loads `text` as a file under the variables. `name` keeps tests apart.
pub(super) fn load_text(name: &str, text: &str, variables: &[(&str, &str)]) -> Result<Loaded, Faults> {
    let files = Files::new(name);
    load_in(&Source::File(files.write("backstop.toml", text)), &environment(variables))
}

/// The text with the least that must be written, its `[route.verify]` last.
fn with_route(text: &str) -> String {
    match text.strip_prefix("route:") {
        Some(keys) => format!("{ROUTE}{keys}\n"),
        None => format!("{text}\n{ROUTE}"),
    }
}

/// The default file with its keys no longer commented out. Prose has a space after its `#`.
fn uncommented() -> String {
    let lines = DEFAULT_FILE.lines().map(|line| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => key,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The settings that only a route was written for.
fn only_a_route() -> Settings {
    load_text("only-a-route", ROUTE, &[]).unwrap().settings
}

#[test]
fn the_default_file_says_what_the_defaults_are() {
    let shipped = load_text("shipped", DEFAULT_FILE, &[]).unwrap();
    let shown = load_text("shown", &uncommented(), &[]).unwrap();
    assert_eq!(shipped.settings, only_a_route());
    assert_eq!(shown.settings, only_a_route());
    assert_eq!((shipped.warnings, shown.warnings), (Vec::new(), Vec::new()));
}

#[test]
fn the_default_file_shows_every_key() {
    let shown = load_text("every-key", &uncommented(), &[]).unwrap();
    let missing = shown.effective();
    let missing: Vec<&str> = missing.lines().filter(|line| line.ends_with("# default")).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

#[test]
fn only_a_route_must_be_written() {
    let loaded = load_text("least", ROUTE, &[]).unwrap();
    let config = loaded.config;
    assert_eq!(loaded.warnings, Vec::new());
    assert_eq!(&*config.hostname, "mx.example.org");
    assert_eq!(&*config.listeners[0].name, "mx");
    assert_eq!(config.listeners[0].tls, ListenerTls::Off);
    assert_eq!(config.listeners[0].addresses, ["[::]:25".parse::<SocketAddr>().unwrap()]);
    let route = config.routes.first();
    assert_eq!((&*route.name, route.max_connections), ("example.org", 45));
    assert!(matches!(route.tls.policy, TlsPolicy::Opportunistic));
    assert_eq!(route.verify.source, RecipientSource::Callout { backends: route.backends.clone() });
    assert_eq!(route.verify.sender, None);
    assert_eq!(route.verify.fallback_sender, Mailbox::parse("postmaster@mx.example.org").ok());
    assert_eq!(route.verify.timeout, Duration::from_secs(25));
    assert_eq!(config.limits.max_message_size, None);
    assert_eq!(config.timeouts.session, None);
    assert_eq!(config.timeouts.data_min_rate, Some(500));
    assert_eq!(config.cache.serve_stale, Duration::from_secs(86_400));
    assert!(config.admin.unwrap().token.is_none());
    assert_eq!(config.store, Store { path: None, secret: None, shared: None });
}

#[test]
fn every_key_reaches_the_configuration_in_use() {
    let files = Files::new("every-key-used");
    let token = files.write("token", "s3cret\n");
    let made = rcgen::generate_simple_self_signed(["mx.example.org".to_owned()]).unwrap();
    let chain = files.write("tls.crt", &made.cert.pem());
    let key = files.write("tls.key", &made.signing_key.serialize_pem());
    let text = format!(
        "hostname = 'MX.Bücher.example'
        [[listener]]\nname = 'in'\naddress = ['127.0.0.1:0', '[::1]:2525']
        proxy_protocol = 'late'\nxclient = true\ntrusted = ['10.0.0.0/8']\ntransparent = true\nreuse_port = true
        [[listener]]\nname = 'smtps'\naddress = ['127.0.0.1:465']\ntls = 'implicit'
        [tls]\nmin_version = '1.3'\ncertificates = [{{ chain = {chain:?}, key = {key:?} }}]
        [[route]]\nname = 'store'\ndomains = ['*']\nbackends = ['mail:2525', 'smtps://[::1]:465']
        tls = 'verify'\ntls_ca = {chain:?}\ntls_name = 'mail.example.org'
        hide_ehlo = ['dsn']\nmax_connections = 2\nprofile = 'exchange'
        client_address = 'proxy-v2'\nreceived = 'always'
        [route.verify]\nmode = 'shadow'\nallow = ['Ann@example.org']\ndeny = ['@spam.example']
        backends = ['10.0.0.6:26']\nsender = 'probe@example.org'\nfallback_sender = 'other@example.org'
        case_sensitive = false\non_unknown = 'tempfail'\ntimeout = '5s'\nrecheck = '0s'
        [cache]\nmax_entries = 7\ntempfail_ttl = 0\nblind_ttl = '1h'\nserve_stale = '0d'
        path = '/var/lib/backstop'\nsecret = 'salt'
        [harvest]\nmax_unknown_per_session = 0\nmax_unknown_per_hour = 7\nban = '2h'\nexempt = ['198.51.100.0/24']
        tarpit = '3s'\ntarpit_max = '2s'\ngreet_delay = '1s'\nmax_clients = 1000
        [limits]\nmax_message_size = '25MiB'\nmax_errors = 0\nbypass = ['10.0.0.0/8']
        [timeouts]\ntls_handshake = '7s'\nsession = '1h'\ndata_min_rate = '0'\ndrain_delay = '500ms'\nproxy_header = '1s'
        [admin]\ntoken_file = '{}'\n[log]\nformat = 'json'\nlevel = 'backstop=debug,info'\nredact = 'hash'",
        token.display()
    );
    let config = load_text("every-key-used-file", &text, &[]).unwrap().config;
    assert_eq!(&*config.hostname, "mx.xn--bcher-kva.example");
    let listener = &config.listeners[0];
    assert_eq!(listener.addresses.len(), 2);
    assert_eq!(listener.proxy_protocol, ProxyProtocol::Late);
    assert!(listener.xclient && listener.transparent && listener.reuse_port);
    assert!(listener.trusted.contains("10.1.2.3".parse().unwrap()));
    assert_eq!(config.store.path, Some("/var/lib/backstop".into()));
    assert_eq!(config.store.secret.as_ref().map(Secret::reveal), Some("salt"));
    let route = config.routes.find(&Domain::parse("any.example").unwrap()).unwrap();
    assert_eq!(route.backends[0].to_string(), "mail:2525");
    assert_eq!(route.backends[1].tls(), EndpointTls::Implicit);
    assert!(matches!(&route.tls.policy, TlsPolicy::Verify(roots) if roots.len() == 1));
    assert_eq!(route.tls.name.as_deref(), Some("mail.example.org"));
    let listeners: Vec<_> = config.listeners.iter().map(|listener| listener.tls).collect();
    assert_eq!(
        listeners,
        [ListenerTls::StartTls, ListenerTls::Implicit],
        "offered where there is a certificate"
    );
    assert_eq!((config.tls.certificates.len(), config.tls.min_version), (1, TlsVersion::Tls13));
    assert_eq!(config.tls.certificates[0].key.cert.len(), 1);
    assert_eq!(config.timeouts.tls_handshake, Duration::from_secs(7));
    assert_eq!(route.hide_ehlo, ["DSN"]);
    let harvest = &config.harvest;
    assert_eq!((harvest.max_unknown_per_session, harvest.max_unknown_per_hour), (None, Some(7)));
    assert_eq!((harvest.ban, harvest.max_clients), (Duration::from_secs(7200), 1000));
    assert_eq!((harvest.tarpit, harvest.tarpit_max), (Duration::from_secs(3), Duration::from_secs(3)));
    assert_eq!(harvest.greet_delay, Some(Duration::from_secs(1)));
    // Its own, `limits.bypass`, and the fronts of listeners; others are none.
    for (client, exempt) in [("198.51.100.1", true), ("10.9.9.9", true), ("192.0.2.1", false)] {
        assert_eq!(harvest.exempt.contains(client.parse().unwrap()), exempt, "{client}");
    }
    assert_eq!((route.profile, route.max_connections), (Profile::Exchange, 2));
    assert_eq!((route.client_address, route.trace), (ClientAddress::ProxyV2, Trace::Received));
    let verify = &route.verify;
    assert_eq!((verify.mode, verify.on_unknown), (Mode::Shadow, OnUnknown::Tempfail));
    assert_eq!(verify.local_case, LocalCase::Insensitive);
    assert!(verify.allow.contains(&Mailbox::parse("ann@example.org").unwrap()));
    assert!(verify.deny.contains(&Mailbox::parse("x@spam.example").unwrap()));
    assert_eq!(verify.sender, Mailbox::parse("probe@example.org").ok());
    assert_eq!(verify.fallback_sender, Mailbox::parse("other@example.org").ok());
    assert_eq!(verify.recheck, Duration::ZERO);
    assert!(
        matches!(&verify.source, RecipientSource::Callout { backends } if backends[0].to_string() == "10.0.0.6:26")
    );
    assert_eq!((config.cache.max_entries, config.cache.tempfail_ttl), (7, Duration::ZERO));
    assert_eq!(config.cache.blind_ttl, Duration::from_secs(3600));
    assert_eq!((config.limits.max_message_size, config.limits.max_errors), (Some(26_214_400), None));
    assert!(config.limits.bypass.contains("::ffff:10.9.9.9".parse().unwrap()));
    assert_eq!(config.timeouts.session, Some(Duration::from_secs(3600)));
    assert_eq!(config.timeouts.data_min_rate, None);
    assert_eq!(config.timeouts.proxy_header, Duration::from_secs(1));
    assert_eq!(config.admin.unwrap().token.unwrap().reveal(), "s3cret");
    assert_eq!((config.log.format, config.log.level.as_str()), (LogFormat::Json, "backstop=debug,info"));
}

#[test]
fn a_profile_presets_what_was_not_written() {
    let preset = |name: &str, keys: &str| {
        let text = with_route(&format!("route:{keys}"));
        let route = Arc::clone(load_text(name, &text, &[]).unwrap().config.routes.first());
        (route.max_connections, route.verify.local_case, route.verify.refusals_endured)
    };
    let (sensitive, insensitive) = (LocalCase::Sensitive, LocalCase::Insensitive);
    for (name, keys, expected) in [
        ("none", "", (45, sensitive, 10)),
        ("standard", "profile = 'standard'", (45, sensitive, 10)),
        ("exchange", "profile = 'exchange'", (18, insensitive, 5)),
        ("beaten", "profile = 'exchange'\nmax_connections = 45", (45, insensitive, 5)),
        ("beaten-too", "profile = 'exchange'\n[route.verify]\ncase_sensitive = true", (18, sensitive, 5)),
    ] {
        assert_eq!(preset(&format!("profile-{name}"), keys), expected, "{keys}");
    }
    let shown = load_text("profile-shown", &with_route("route:profile = 'exchange'"), &[]).unwrap();
    assert!(shown.effective().contains("max_connections = 18"), "{}", shown.effective());
}

#[test]
fn domains_take_the_most_specific_route() {
    let route = |name: &str, domains: &str| {
        format!("[[route]]\nname = '{name}'\ndomains = [{domains}]\nbackends = ['{name}:25']\n")
    };
    let text = [
        route("exact", "'example.org', 'a.b.example.org', '[192.0.2.1]'"),
        route("below", "'*.example.org', '*.BÜCHER.example'"),
        route("deeper", "'*.b.example.org'"),
    ];
    let find = |routes: &Routes, domain: &str| {
        routes.find(&Domain::parse(domain).unwrap()).map_or_else(String::new, |route| route.name.to_string())
    };
    let some = load_text("routes", &text.concat(), &[]).unwrap().config.routes;
    let all = load_text("routes-any", &(text.concat() + &route("any", "'*'")), &[]).unwrap().config.routes;
    for (domain, without_any, with_any) in [
        ("example.org", "exact", "exact"),
        ("EXAMPLE.org", "exact", "exact"),
        ("x.example.org", "below", "below"),
        ("b.example.org", "below", "below"),
        ("x.b.example.org", "deeper", "deeper"),
        ("y.x.b.example.org", "deeper", "deeper"),
        ("a.b.example.org", "exact", "exact"),
        ("x.a.b.example.org", "deeper", "deeper"),
        ("x.xn--bcher-kva.example", "below", "below"),
        ("bücher.example", "", "any"),
        ("other.example", "", "any"),
        ("org", "", "any"),
        ("[192.0.2.1]", "exact", "exact"),
        ("[192.0.2.2]", "", "any"),
    ] {
        assert_eq!(find(&some, domain), without_any, "{domain}");
        assert_eq!(find(&all, domain), with_any, "{domain}");
    }
    assert_eq!(&*all.first().name, "exact");
    assert_eq!(all.iter().count(), 4);
}

#[test]
fn what_is_in_force_loads_again_as_the_same() {
    let text = with_route(
        "hostname = 'MX.example.org'\n[limits]\nbypass = ['10.0.0.0/8', '::1']\nmax_message_size = '25MiB'
        [log]\nlevel = 'backstop=debug,info'\n[[listener]]\nname = 'a'\n[[listener]]\nname = 'b\\'\naddress = ['[::1]:25']",
    );
    let text =
        text.replace("'b\\'", "'b'") + "[route.verify]\nallow = ['\"a\\\\b\"@example.org']\nsender = 'a@b.c'";
    let loaded = load_text("effective", &text, &[("BACKSTOP__LIMITS__MAX_ERRORS", "3")]).unwrap();
    let effective = loaded.effective();
    let again = load_text("effective-again", &effective, &[]).unwrap();
    assert_eq!(again.settings, loaded.settings, "{effective}");
    for (key, origin) in [
        ("max_errors = 3", "BACKSTOP__LIMITS__MAX_ERRORS"),
        ("max_message_size = \"25MiB\"", "backstop.toml"),
        ("max_recipients = 1000", "# default"),
        ("fallback_sender = \"postmaster@mx.example.org\"", "# default"),
    ] {
        let line = effective.lines().find(|line| line.starts_with(key));
        assert!(line.is_some_and(|line| line.ends_with(origin)), "{key}:\n{effective}");
    }
}
