//! What is refused or warned about, and with which words.

use std::collections::BTreeSet;

use super::*;

/// What is written (before a route, or after `route:` in it), the key at fault, and a part of its remedy.
const FAULTS: &[(&str, &str, &str)] = &[
    // Kinds of single values.
    ("hostname = 5", "hostname", "\"mx.example.org\""),
    ("hostname = 'a b'", "hostname", "\"mx.example.org\""),
    ("hostname = ['mx']", "hostname", "\"mx.example.org\""),
    ("[cache]\npositive_ttl = 86400", "cache.positive_ttl", "\"86400s\""),
    ("[cache]\npositive_ttl = true", "cache.positive_ttl", "\"10s\""),
    ("[cache]\npositive_ttl = '1 day'", "cache.positive_ttl", "\"10s\""),
    ("[cache]\npositive_ttl = '99999d'", "cache.positive_ttl", "\"3650d\""),
    ("[limits]\nmax_message_size = 1000", "limits.max_message_size", "\"1000B\""),
    ("[limits]\nmax_message_size = '25MB'", "limits.max_message_size", "\"25MiB\""),
    ("[timeouts]\ndata_min_rate = '500B'", "timeouts.data_min_rate", "\"500B/s\""),
    ("[limits]\nmax_recipients = 'many'", "limits.max_recipients", "write a number"),
    ("[limits]\nmax_recipients = -1", "limits.max_recipients", "write a number"),
    ("[limits]\nmax_recipients = 1.5", "limits.max_recipients", "write a number"),
    ("[limits]\nbare_newline = 'fix'", "limits.bare_newline", "\"reject\", \"normalize\""),
    ("[limits]\nbypass = '10.0.0.0/8'", "limits.bypass", "[\"10.0.0.0/8\"]"),
    ("[limits]\nbypass = ['10.0.0.1/8']", "limits.bypass[0]", "\"10.0.0.0/8\""),
    ("[log]\nlevel = 'inof'", "log.level", "\"info\""),
    ("[log]\nlevel = 'a=b=c'", "log.level", "\"info\""),
    ("[admin]\naddress = 'localhost:9525'", "admin.address", "\"127.0.0.1:9525\""),
    ("[admin]\ntoken = 'a b'", "admin.token", "openssl rand"),
    // Shapes.
    ("cache = 5", "cache", "[cache]"),
    ("listener = 'mx'", "listener", "[[listener]]"),
    ("listener = [1]", "listener[0]", "[[listener]]"),
    ("[listener]\nname = 'mx'", "listener", "BACKSTOP__LISTENER="),
    // Unknown keys.
    ("hostnam = 'mx.example.org'", "hostnam", "\"hostname\""),
    ("[limits]\nmax_recipents = 5", "limits.max_recipents", "\"max_recipients\""),
    ("[harvest]\nban = '0s'", "harvest.ban", "60s"),
    ("[harvest]\ntarpit_max = '3m'", "harvest.tarpit_max", "\"10s\""),
    ("[harvest]\ngreet_delay = '5m'", "harvest.greet_delay", "\"10s\""),
    ("[harvest]\nmax_unknown_per_hour = 100000", "harvest.max_unknown_per_hour", "write 50000 or less"),
    ("[harvest]\nmax_clients = 0", "harvest.max_clients", "write 1000 or more"),
    ("[dnsbl]\nzone = 'a'", "dnsbl", "hostname, listener, route"),
    ("route:verify.sendr = ''", "route[0].verify.sendr", "\"sender\""),
    // Listeners.
    ("listener = []", "listener", "[[listener]]"),
    ("[[listener]]\naddress = []", "listener[0].address", "[\"[::]:25\"]"),
    ("[[listener]]\naddress = ['25']", "listener[0].address[0]", "\"[::]:25\""),
    ("[[listener]]\nname = 'a b'", "listener[0].name", "\"exchange\""),
    ("[[listener]]\n[[listener]]\naddress = ['[::]:26']", "listener[1].name", "\"mx2\""),
    ("[[listener]]\n[[listener]]\nname = 'b'", "listener[1].address", "another address"),
    ("[[listener]]\naddress = ['[::]:25', '0.0.0.0:25']", "listener[0].address", "\"[::]:25\" alone"),
    (
        "[[listener]]\nproxy_protocol = 'on'",
        "listener[0].proxy_protocol",
        "\"required\", \"optional\", \"late\"",
    ),
    ("[[listener]]\nproxy_protocol = 'late'", "listener[0].trusted", "balancers"),
    ("[[listener]]\nxclient = true\ntrusted = []", "listener[0].trusted", "balancers"),
    ("[[listener]]\ntrusted = ['10.0.0.1/8']", "listener[0].trusted[0]", "\"10.0.0.0/8\""),
    ("[timeouts]\nproxy_header = '0s'", "timeouts.proxy_header", "\"60s\""),
    // Routes.
    ("route:client_address = 'proxy'", "route[0].client_address", "\"proxy-v2\""),
    ("route:received = 'yes'", "route[0].received", "\"auto\", \"always\", \"never\""),
    (
        "route:[[route]]\nname='b'\ndomains = ['b.example']\nbackends = ['10.0.0.5:25']\nclient_address = 'proxy-v2'",
        "route[1].client_address",
        "another port",
    ),
    ("route:name = ' '", "route[0].name", "\"exchange\""),
    ("route:balance = 'random'", "route[0].balance", "\"least-connections\", \"round-robin\", \"failover\""),
    ("route:check = '100ms'", "route[0].check", "\"1s\" or more"),
    ("route:canary = 'anna'", "route[0].canary", "\"postmaster@example.org\""),
    ("[dns]\nservers = ['ns.example.org']", "dns.servers[0]", "\"10.0.0.53\""),
    ("route:max_connections = 1", "route[0].max_connections", "2 or more"),
    ("route:hide_ehlo = ['DSN X']", "route[0].hide_ehlo[0]", "\"DSN\""),
    (
        "route:[[route]]\nname='b'\ndomains = ['Example.ORG']\nbackends = ['b:25']",
        "route[1].domains",
        "write it once",
    ),
    (
        "route:[[route]]\nname='b'\ndomains = ['*', '*']\nbackends = ['b:25']",
        "route[1].domains",
        "write it once",
    ),
    ("route:[[route]]\nname='example.org'\ndomains = ['b']\nbackends = ['b:25']", "route[1].name", "name = "),
    ("route:[[route]]\ndomains = ['a..b']\nbackends = ['b:25']", "route[1].domains[0]", "\"*.example.org\""),
    (
        "route:[[route]]\ndomains = ['*.[192.0.2.1]']\nbackends = ['b:25']",
        "route[1].domains[0]",
        "\"*.example.org\"",
    ),
    ("route:[[route]]\nbackends = ['b:25']", "route[1].domains", "domains = [\"example.org\"]"),
    ("route:[[route]]\ndomains = ['b']", "route[1].backends", "backends = [\"10.0.0.5:25\"]"),
    ("route:[[route]]\ndomains = ['b']\nbackends = ['smtp://b:25']", "route[1].backends[0]", "host:port"),
    (
        "route:[[route]]\ndomains = ['b']\nbackends = ['srv:mail.b']",
        "route[1].backends[0]",
        "\"srv:_smtp._tcp.mail.example.org\"",
    ),
    (
        "route:[[route]]\ndomains = ['b']\nbackends = ['mx:b:25']",
        "route[1].backends[0]",
        "\"mx:example.org\"",
    ),
    ("route:[[route]]\ndomains = ['b']\nbackends = ['b:25', 'b:25']", "route[1].backends", "write it once"),
    // TLS.
    ("route:tls = 'yes'", "route[0].tls", "\"opportunistic\", \"required\""),
    ("route:tls = 'pin'", "route[0].tls_pins", "sha256//"),
    ("route:tls = 'pin'\ntls_pins = ['abc']", "route[0].tls_pins[0]", "openssl"),
    (
        "route:tls = 'verify'\ntls_ca = '/nowhere/at/all'\ntls_name = 'a.b'",
        "route[0].tls_ca",
        "PEM file of the CA",
    ),
    ("route:tls = 'verify'\ntls_ca = '/dev/null'\ntls_name = 'a.b'", "route[0].tls_ca", "PEM file of the CA"),
    ("route:tls_name = 'a b'", "route[0].tls_name", "\"mx.example.org\""),
    (
        "route:[[route]]\ndomains = ['b']\nbackends = ['smtps://b:465']\ntls = 'off'",
        "route[1].tls",
        "tls = \"required\"",
    ),
    (
        "route:[[route]]\ndomains = ['b']\nbackends = ['10.0.0.5:25']\ntls = 'required'",
        "route[1].tls",
        "the same tls, tls_pins, tls_ca and tls_name",
    ),
    (
        "route:[[route]]\ndomains = ['b']\nbackends = ['b:25']\nverify.backends = ['10.0.0.5:25']\ntls = 'off'",
        "route[1].tls",
        "the same tls",
    ),
    ("[tls]\nmin_version = '1.1'", "tls.min_version", "\"1.2\", \"1.3\""),
    ("[tls]\ncertificates = ['/etc/x.pem']", "tls.certificates[0]", "[[tls.certificates]]"),
    (
        "[tls]\ncertificates = [{ chain = '/nowhere/at/all', key = '/dev/null' }]",
        "tls.certificates[0].chain",
        "PEM file",
    ),
    (
        "[tls]\ncertificates = [{ chain = '/dev/null', key = '/dev/null' }]",
        "tls.certificates[0].chain",
        "PEM file",
    ),
    ("[tls]\ncertificates = [{ chain = '/dev/null' }]", "tls.certificates[0].key", "key = "),
    ("[[listener]]\ntls = 'tls'", "listener[0].tls", "\"off\", \"starttls\", \"required\", \"implicit\""),
    ("[[listener]]\ntls = 'implicit'", "listener[0].tls", "certificates = [{ chain = "),
    ("[timeouts]\ntls_handshake = 0", "timeouts.tls_handshake", "\"60s\""),
    // Verification.
    ("route:verify.mode = 'on'", "route[0].verify.mode", "\"enforce\", \"shadow\", \"off\""),
    ("route:verify.source = 'file'", "route[0].verify.file", "file = "),
    (
        "route:verify.source = 'file'\nverify.file = '/'",
        "route[0].verify.file",
        "one recipient or @domain per line",
    ),
    (
        "route:verify.source = 'file'\nverify.file = '/nowhere/at/all'",
        "route[0].verify.file",
        "one recipient",
    ),
    ("route:verify.sender = '<>'", "route[0].verify.sender", "\"\""),
    ("route:verify.sender = 'postmaster'", "route[0].verify.sender", "\"postmaster@example.org\""),
    ("route:verify.allow = ['ann']", "route[0].verify.allow[0]", "\"@example.org\""),
    (
        "route:verify.allow = ['a@example.org']\nverify.deny = ['a@EXAMPLE.org']",
        "route[0].verify.deny",
        "one of the two",
    ),
    ("route:verify.case_sensitive = 'no'", "route[0].verify.case_sensitive", "true or false"),
    ("route:verify.timeout = 0", "route[0].verify.timeout", "\"60s\""),
    ("route:verify.timeout = '25'", "route[0].verify.timeout", "\"25s\""),
    ("route:verify.backends = ['b']", "route[0].verify.backends[0]", "\"b:25\""),
    ("route:verify.backends = ['b:25', 'b:25']", "route[0].verify.backends", "write it once"),
    // Ranges.
    ("[cache]\nmax_entries = 0", "cache.max_entries", "1 or more"),
    ("[limits]\nmax_connections = 0", "limits.max_connections", "1 or more"),
    ("[limits]\nmax_connections_per_client = 0", "limits.max_connections_per_client", "1 or more"),
    ("[limits]\nmax_recipients = 0", "limits.max_recipients", "1 or more"),
    ("[limits]\nmax_command_line = 511", "limits.max_command_line", "write 2048"),
    ("[limits]\nmax_command_line = 65537", "limits.max_command_line", "write 2048"),
    ("[timeouts]\ncommand = '0s'", "timeouts.command", "\"60s\""),
    ("[timeouts]\ndata = '0m'", "timeouts.data", "\"60s\""),
    ("[timeouts]\nbackend_connect = 0", "timeouts.backend_connect", "\"60s\""),
    // The admin endpoint.
    ("[admin]\ntoken = 'a'\ntoken_file = '/x'", "admin.token_file", "one of the two"),
    ("[admin]\ntoken_file = '/nowhere/at/all'", "admin.token_file", "path of a file"),
    ("[admin]\ntoken_file = '/dev/null'", "admin.token_file", "openssl rand"),
    // The store.
    ("[cache]\nsecret = 'a'\nsecret_file = '/x'", "cache.secret_file", "one of the two"),
    ("[cache]\nsecret_file = '/nowhere/at/all'", "cache.secret_file", "path of a file"),
    ("[cache]\nsecret = 'a b'", "cache.secret", "openssl rand"),
    // What instances share.
    ("[cache]\nshared = 'redis://cache'", "cache.shared", "openssl rand"),
    ("[cache]\nsecret = 'a'\nshared = 'cache:6379'", "cache.shared", "redis://"),
    ("[cache]\nsecret = 'a'\nshared_prefix = 'a*'", "cache.shared_prefix", "\"backstop\""),
];

#[test]
fn each_fault_has_its_key_and_says_what_to_write() {
    for (written, key, remedy) in FAULTS {
        let Err(faults) = load_text("each-fault", &with_route(written), &[]) else {
            panic!("{written:?} was taken");
        };
        let [fault] = faults.faults.as_slice() else { panic!("{written:?}: {faults}") };
        assert_eq!(fault.key, *key, "{written:?}: {fault}");
        assert!(fault.remedy.contains(remedy), "{written:?}: {fault}");
        assert!(!fault.reason.is_empty(), "{written:?}: {fault}");
    }
}

#[test]
fn a_backend_that_is_our_own_listener_is_refused() {
    let text = "[[listener]]\naddress = ['10.0.0.5:25']";
    let faults = load_text("loop", &with_route(text), &[]).unwrap_err().faults;
    assert_eq!(faults[0].key, "route[0].backends");
    assert!(faults[0].reason.contains("Backstop itself"));

    let loopback = "[[route]]\ndomains = ['a']\nbackends = ['127.0.0.1:25', '127.0.0.1:26']";
    let warnings = load_text("loopback", loopback, &[]).unwrap().warnings;
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert!(warning.reason.contains("Backstop itself"));
}

#[test]
fn all_faults_come_in_one_answer() {
    let text = "
        hostname = 'a b'
        [[listener]]\nname = 'x y'\naddress = ['25', '[::]:25']\nnam = 1
        [[route]]\ndomains = ['example.org', 'b..c']\nbackends = ['smtp://a:25', 'b:25']\nmax_connections = 1
        [route.verify]\ntimeout = 25\nmode = 'on'\nsource = 'file'
        [[route]]\ndomains = ['example.org']\nname = 5
        [cache]\npositive_ttl = 5\nmax_entrys = 1
        [limits]\nmax_command_line = 5\nbypass = ['x', '10.0.0.0/8', 'y']
        [logs]\nlevel = 'info'";
    let variables = [("BACKSTOP__TIMEOUTS__DRAIN", "soon"), ("BACKSTOP__TIMEOUTS__COMMAND", "0s")];
    let faults = load_text("all-faults", text, &variables).unwrap_err().faults;
    let keys: BTreeSet<&str> = faults.iter().map(|fault| fault.key.as_str()).collect();
    let expected = [
        "hostname",
        "listener[0].name",
        "listener[0].address[0]",
        "listener[0].nam",
        "route[0].domains[1]",
        "route[0].backends[0]",
        "route[0].max_connections",
        "route[0].verify.timeout",
        "route[0].verify.mode",
        "route[0].verify.file",
        "route[1].name",
        "route[1].domains",
        "route[1].backends",
        "cache.positive_ttl",
        "cache.max_entrys",
        "limits.max_command_line",
        "limits.bypass[0]",
        "limits.bypass[2]",
        "logs",
        "timeouts.drain",
        "timeouts.command",
    ];
    assert_eq!(keys, BTreeSet::from(expected));
    assert_eq!(faults.len(), expected.len(), "none twice");
}

#[test]
fn faults_show_the_value_as_written_and_where() {
    let text = with_route("[cache]\npositive_ttl = '1 day'");
    let fault = load_text("where", &text, &[]).unwrap_err().faults.remove(0);
    assert_eq!(fault.value, "\"1 day\"");
    assert!(matches!(&fault.origin, Origin::File(path) if path.ends_with("backstop.toml")), "{fault}");

    let variable = "BACKSTOP__CACHE__POSITIVE_TTL";
    let fault = load_text("where-variable", &text, &[(variable, "2 days")]).unwrap_err().faults.remove(0);
    assert_eq!((fault.value.as_str(), fault.origin), ("\"2 days\"", Origin::Named(variable.to_owned())));
}

#[test]
fn a_table_that_is_none_keeps_the_place_of_those_after_it() {
    let routes = "[1, {domains=[\"a.example\"],backends=[\"b\"]}]";
    let faults = load_in(&Source::Flags(Flags::default()), &environment(&[("BACKSTOP__ROUTE", routes)]));
    let keys: Vec<String> = faults.unwrap_err().faults.into_iter().map(|fault| fault.key).collect();
    assert_eq!(keys, ["route[0]", "route[1].backends[0]"]);
}

#[test]
fn a_broken_file_is_one_fault_with_its_place_and_without_its_text() {
    let text = "[admin]\ntoken = \"hunter2\n";
    let faults = load_text("broken", text, &[]).unwrap_err().faults;
    let [fault] = faults.as_slice() else { panic!("{faults:?}") };
    assert!(fault.reason.starts_with("line 2, column "), "{fault}");
    assert!(!fault.to_string().contains("hunter2"), "{fault}");
}

/// What is written, and the keys warned about.
const WARNINGS: &[(&str, &[&str])] = &[
    ("hostname = 'mx'", &["hostname"]),
    ("hostname = 'backstop-7d9f8b6c5d-x2x4z.example.org'", &["hostname"]),
    ("[cache]\npositive_ttl = '12h'", &["cache.positive_refresh"]),
    ("[cache]\npositive_refresh = '2d'", &["cache.positive_refresh"]),
    ("[cache]\nnegative_ttl = '3h'", &["cache.negative_ttl_max"]),
    ("route:verify.recheck = '2h'", &["route[0].verify.recheck"]),
    ("route:verify.file = '/x'", &["route[0].verify.file"]),
    (
        "route:verify.mode = 'off'\nverify.timeout = '1s'\nverify.file = '/x'",
        &["route[0].verify.timeout", "route[0].verify.file"],
    ),
    (
        "route:verify.source = 'file'\nverify.file = '/dev/null'\nverify.sender = 'a@b.c'",
        &["route[0].verify.sender"],
    ),
    (
        "route:verify.allow = ['ann@example.org', 'ann@sub.example.org', 'postmaster']",
        &["route[0].verify.allow"],
    ),
    ("route:verify.deny = ['@other.example']", &["route[0].verify.deny"]),
    (
        "[limits]\nmax_connections = 10\nmax_connections_per_client = 11",
        &["limits.max_connections_per_client"],
    ),
    (
        "[limits]\nbare_newline = 'normalize'\nbare_newline_exempt = ['10.0.0.0/8']",
        &["limits.bare_newline_exempt"],
    ),
    ("[admin]\naddress = ''\ntoken = 'x'", &["admin.token"]),
    ("[[listener]]\nxclient = true\ntrusted = ['10.0.0.0/8', '::/0']", &["listener[0].trusted"]),
    (
        "route:tls_pins = ['sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=']\ntls_ca = '/x'",
        &["route[0].tls_pins", "route[0].tls_ca"],
    ),
    ("route:tls = 'off'\ntls_name = 'mail.example.org'", &["route[0].tls_name"]),
    // A default that another key overtakes is nobody's mistake.
    ("[limits]\nmax_connections = 10", &[]),
    ("[admin]\naddress = ''", &[]),
];

#[test]
fn keys_without_effect_are_warned_about_and_never_refused() {
    for (written, keys) in WARNINGS {
        let warnings = match load_text("warnings", &with_route(written), &[]) {
            Ok(loaded) => loaded.warnings,
            Err(faults) => panic!("{written:?}: {faults}"),
        };
        let warned: Vec<&str> = warnings.iter().map(|warning| warning.key.as_str()).collect();
        assert_eq!(warned, *keys, "{written:?}: {warnings:?}");
        assert!(warnings.iter().all(|warning| !warning.remedy.is_empty()));
    }
}

#[test]
fn secrets_are_never_printed() {
    let loaded = load_text("secrets", &with_route("[admin]\ntoken = 'hunter2'"), &[]).unwrap();
    assert!(!format!("{loaded:?}").contains("hunter2"));
    assert!(!loaded.effective().contains("hunter2"));
    assert!(loaded.effective().contains("token = \"(set)\""));
    let shared = "[cache]\nsecret = 'a'\nshared = 'redis://backstop:hunter2@cache'";
    let loaded = load_text("shared-secrets", &with_route(shared), &[]).unwrap();
    assert!(!format!("{loaded:?}{:?}", loaded.config).contains("hunter2"));
    assert!(
        loaded.effective().contains("shared = \"redis://backstop:(set)@cache:6379\""),
        "{}",
        loaded.effective()
    );
    for written in [
        "[cache]\nshared = 'redis://backstop:hunter2@cache'",
        "[cache]\nsecret = 'a'\nshared = 'redis://backstop:hunter2@cache:x'",
        "[cache]\nsecret = 'a'\nshared = ['redis://backstop:hunter2@cache']",
        "[admin]\ntoken = 'hunter2 hunter2'",
        "[cache]\nsecret = 'hunter2 hunter2'",
        "[cache]\nsecret = 'hunter2'\nsecret_file = '/x'",
        "[admin]\ntokn = 'hunter2'",
        "[admin]\ntoken = ['hunter2']",
        "[[admin]]\ntoken = 'hunter2'",
        "[admin]\ntoken = 'hunter2'\ntoken_file = '/x'",
    ] {
        let faults = load_text("secret-faults", &with_route(written), &[]).unwrap_err();
        assert!(!format!("{faults:?}{faults}").contains("hunter2"), "{written}: {faults}");
    }
}
