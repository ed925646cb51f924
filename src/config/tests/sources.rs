//! Files, flags and variables.

use std::path::Path;

use super::*;

#[test]
fn a_file_that_is_missing_is_a_fault() {
    let path = PathBuf::from("/nowhere/backstop.toml");
    let faults = load_in(&Source::File(path.clone()), &environment(&[])).unwrap_err().faults;
    assert_eq!(faults[0].origin, Origin::File(path));
    assert!(faults[0].remedy.contains("--config"));
}

#[test]
fn the_usual_places_are_searched_in_turn() {
    let files = Files::new("search");
    let places = ["first.toml", "second.toml"].map(|name| files.0.join(name));
    let environment = Environment { search: places.to_vec(), ..environment(&[]) };

    let faults = load_in(&Source::Search, &environment).unwrap_err().to_string();
    for part in ["first.toml", "second.toml", "--listen", "--domain", "--backend"] {
        assert!(faults.contains(part), "{faults}");
    }
    files.write("second.toml", ROUTE);
    assert_eq!(load_in(&Source::Search, &environment).unwrap().file.as_deref(), Some(places[1].as_path()));
    files.write("first.toml", ROUTE);
    assert_eq!(load_in(&Source::Search, &environment).unwrap().file.as_deref(), Some(places[0].as_path()));
}

#[test]
fn this_process_is_searched_in_the_two_places_documented() {
    let places = Environment::of_process().search;
    assert_eq!(places, [Path::new("./backstop.toml"), Path::new("/etc/backstop/backstop.toml")]);
}

#[test]
fn flags_need_no_file() {
    let flags = Flags {
        listen: vec!["127.0.0.1:0".to_owned(), "[::1]:2525".to_owned()],
        domain: vec!["a.example".to_owned(), "b.example".to_owned()],
        backend: vec!["mail:25".to_owned()],
    };
    let variables = [("BACKSTOP__LIMITS__MAX_ERRORS", "3"), ("BACKSTOP__ROUTE", "[]")];
    let loaded = load_in(&Source::Flags(flags), &environment(&variables)).unwrap();
    let config = loaded.config;
    assert_eq!((config.listeners.len(), config.listeners[0].addresses.len()), (1, 2));
    assert_eq!(config.routes.first().domains.len(), 2);
    assert_eq!(config.limits.max_errors, Some(3));
    assert_eq!(loaded.file, None);

    let flags = Flags { backend: vec!["mail".to_owned()], ..Flags::default() };
    let faults = load_in(&Source::Flags(flags), &environment(&[])).unwrap_err().faults;
    let keys: Vec<&str> = faults.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["route[0].backends[0]", "route[0].domains"]);
    assert!(faults[1].remedy.contains("--domain"));
    assert!(faults[0].origin.to_string().contains("--backend"));
    assert_eq!(
        load_in(&Source::Flags(Flags::default()), &environment(&[])).unwrap_err().faults[0].key,
        "route"
    );
}

#[test]
fn variables_beat_the_file() {
    let variables = [
        ("BACKSTOP__HOSTNAME", "\"other.example.org\""),
        ("BACKSTOP__LIMITS__MAX_ERRORS", "7"),
        ("BACKSTOP__LIMITS__BYPASS", "[\"192.0.2.0/24\", 10.0.0.0/8]"),
        ("BACKSTOP__ADMIN__TOKEN", "007"),
        ("BACKSTOP__CACHE__TEMPFAIL_TTL", "0"),
    ];
    let text = with_route("hostname = 'mx.example.org'\n[limits]\nmax_errors = 5\nmax_recipients = 6");
    let config = load_text("variables", &text, &variables).unwrap().config;
    assert_eq!(&*config.hostname, "other.example.org");
    assert_eq!((config.limits.max_errors, config.limits.max_recipients), (Some(7), 6));
    assert!(config.limits.bypass.contains("10.0.0.1".parse().unwrap()));
    assert_eq!(config.admin.unwrap().token.unwrap().reveal(), "007");
    assert_eq!(config.cache.tempfail_ttl, Duration::ZERO);
}

#[test]
fn a_variable_can_hold_the_routes_and_no_file_is_needed_then() {
    let route = "[{domains=[\"a.example\"],backends=[\"127.0.0.1:25\"],verify={mode=\"shadow\"}}]";
    let variables = [("BACKSTOP__ROUTE", route), ("BACKSTOP__LISTENER", "[{address=[\"127.0.0.1:0\"]}]")];
    let loaded = load_in(&Source::Search, &environment(&variables)).unwrap();
    assert_eq!(loaded.warnings, Vec::new());
    assert_eq!(loaded.config.routes.first().backends[0].to_string(), "127.0.0.1:25");
    assert_eq!(loaded.config.routes.first().verify.mode, Mode::Shadow);
    assert_eq!(loaded.config.listeners[0].addresses[0].port(), 0);

    let table = [("BACKSTOP__ROUTE__NAME", "x")];
    let faults = load_in(&Source::Flags(Flags::default()), &environment(&table)).unwrap_err().faults;
    assert!(faults[0].remedy.contains("BACKSTOP__ROUTE='["), "{}", faults[0]);
}

#[test]
fn what_kubernetes_sets_for_a_service_does_not_disturb() {
    let variables = [
        ("BACKSTOP_PORT", "tcp://10.0.0.1:25"),
        ("BACKSTOP_PORT_25_TCP", "tcp://10.0.0.1:25"),
        ("BACKSTOP_PORT_25_TCP_ADDR", "10.0.0.1"),
        ("BACKSTOP_SERVICE_HOST", "10.0.0.1"),
        ("BACKSTOP_SERVICE_PORT_SMTP", "25"),
        ("PATH", "/bin"),
    ];
    assert_eq!(load_text("kubernetes", ROUTE, &variables).unwrap().settings, only_a_route());
}

#[test]
fn a_misspelt_variable_is_a_fault_with_its_name() {
    for (name, key) in
        [("BACKSTOP__LIMITS__MAX_ERORS", "limits.max_erors"), ("BACKSTOP__", ""), ("BACKSTOP__X__Y", "x")]
    {
        let faults = load_text("misspelt", ROUTE, &[(name, "3")]).unwrap_err().faults;
        assert_eq!((faults[0].key.as_str(), &faults[0].origin), (key, &Origin::Named(name.to_owned())));
        assert!(faults[0].to_string().contains(name));
    }
}

#[test]
fn without_a_usable_host_name_one_must_be_written() {
    let files = Files::new("host-name");
    let source = Source::File(files.write("backstop.toml", ROUTE));
    for host_name in ["", "my host"] {
        let environment = Environment { host_name: host_name.to_owned(), ..environment(&[]) };
        let faults = load_in(&source, &environment).unwrap_err().faults;
        assert_eq!(faults[0].key, "hostname");
        assert!(faults[0].remedy.contains("hostname = \"mx.example.org\""));
    }
    let environment = Environment { host_name: "pod-0".to_owned(), ..environment(&[]) };
    assert_eq!(load_in(&source, &environment).unwrap().warnings[0].key, "hostname");
}
