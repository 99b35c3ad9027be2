//! The list as an attacker meets it.

use super::*;

fn list(text: &str) -> AllowedHosts {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn target(url: &str) -> ConnectionTarget {
    ConnectionTarget::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
}

/// Whether a target passes as it is spelled.
fn passes(allowed: &str, url: &str) -> bool {
    list(allowed).check_spelling(&target(url)).is_ok()
}

fn resolved(allowed: &str, url: &str, addresses: &[&str]) -> Result<Reached, HostRefused> {
    let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
    list(allowed).check_addresses(&target(url), &addresses)
}

#[test]
fn without_a_list_nothing_may_be_named_and_the_refusal_says_so() {
    for url in ["postgres://u@db.example/d", "postgres://u@127.0.0.1/d", "postgres://u@/d?host=/run/x"] {
        let refused = AllowedHosts::default().check_spelling(&target(url)).unwrap_err();
        assert!(matches!(refused, HostRefused::NoList { .. }));
        assert!(refused.to_string().contains("STAGESUB_DATABASE_HOSTS"), "{refused}");
    }
}

#[test]
fn names_are_compared_whole_without_case_and_without_the_last_dot() {
    let allowed = "db.example, *.pool.example";
    for url in [
        "postgres://u@db.example/d",
        "postgres://u@DB.Example./d",
        "postgres://u@a.pool.example:6432/d",
        "postgres://u@a.b.pool.example/d",
    ] {
        assert!(passes(allowed, url), "{url}");
    }
    for url in [
        "postgres://u@evildb.example/d",
        "postgres://u@db.example.evil/d",
        "postgres://u@db.example../d",
        "postgres://u@pool.example/d",
        "postgres://u@evilpool.example/d",
        "postgres://u@.pool.example/d",
        "postgres://u@a.pool.example.evil.com/d",
    ] {
        assert!(!passes(allowed, url), "{url}");
    }
}

#[test]
fn a_host_hidden_in_another_part_of_the_url_is_the_one_that_is_looked_at() {
    let allowed = "db.example";
    for url in [
        // The login ends at the last @, so the host is what follows it.
        "postgres://db.example:5432@evil.example/d",
        "postgres://u:p@db.example@evil.example/d",
        "postgres://db.example@evil.example/d",
        "postgres://u@evil.example/db.example",
        "postgres://u@evil.example/d?sslrootcert=db.example",
        "postgres://u@/d?host=evil.example",
        "postgres://u@/d?host=%65vil.example",
    ] {
        assert!(!passes(allowed, url), "{url}");
    }
    assert!(passes(allowed, "postgres://u@/d?host=%64b.example"));
    for url in [
        "postgres://u@db.example/d?host=evil.example",
        "postgres://u@db.example,evil.example/d",
        "postgres://u@/d?host=db.example,evil.example",
        "postgres://u@db.example/d?hostaddr=10.0.0.1",
        "postgres://u@db.example/d?service=evil",
        "postgres://u@db.example#@evil.example/d",
        "postgres://u@db.example\\@evil.example/d%00",
        "postgres://u@db.example:5432:5433/d",
        "postgres://u@[fe80::1%25eth0]/d",
        "postgres://u@db.exam%0aple/d",
    ] {
        let parsed = ConnectionTarget::parse(url);
        assert!(
            parsed.as_ref().map_or(true, |target| list(allowed).check_spelling(target).is_err()),
            "{url}"
        );
    }
}

#[test]
fn addresses_are_compared_as_numbers_whatever_they_are_dressed_in() {
    let allowed = "10.0.0.0/8, 2001:db8::/32, 192.0.2.7:6432";
    for url in [
        "postgres://u@10.1.2.3/d",
        "postgres://u@[::ffff:10.1.2.3]/d",
        "postgres://u@[::ffff:a01:203]/d",
        "postgres://u@[2001:DB8:0:0::1]/d",
        "postgres://u@192.0.2.7:6432/d",
        "postgres://u@[::ffff:192.0.2.7]:6432/d",
    ] {
        assert!(passes(allowed, url), "{url}");
    }
    for url in [
        "postgres://u@192.0.2.7/d",
        "postgres://u@11.0.0.1/d",
        "postgres://u@127.0.0.1/d",
        "postgres://u@[::1]/d",
        "postgres://u@[::ffff:127.0.0.1]/d",
        "postgres://u@[::10.1.2.3]/d",
        "postgres://u@[64:ff9b::10.1.2.3]/d",
        "postgres://u@[2001:db9::1]/d",
    ] {
        assert!(!passes(allowed, url), "{url}");
    }
}

#[test]
fn an_address_that_only_some_programs_can_read_is_refused_even_if_it_were_listed() {
    for host in ["2130706433", "0x7f000001", "127.1", "0177.0.0.1", "127.0.0.0x1", "10.0.0.1.", "0", "0x"] {
        let url = format!("postgres://u@{host}/d");
        let refused = list("*.example, 127.0.0.0/8, 10.0.0.0/8").check_spelling(&target(&url)).unwrap_err();
        assert!(matches!(refused, HostRefused::Spelling { .. }), "{host}: {refused}");
        assert!(host.parse::<AllowedHosts>().is_err(), "{host}");
    }
}

#[test]
fn sockets_are_used_only_where_they_are_listed() {
    let allowed = "/run/postgresql, db.example";
    for url in [
        "postgres://u@/d?host=/run/postgresql",
        "postgres://u@%2Frun%2Fpostgresql:5433/d",
        "postgres://u@/d?host=/run//postgresql/",
    ] {
        assert!(passes(allowed, url), "{url}");
    }
    for url in [
        "postgres://u@/d?host=/run/postgresql/../mysql",
        "postgres://u@%2Frun%2Fpostgresql%2F..%2F..%2Ftmp/d",
        "postgres://u@/d?host=/run",
        "postgres://u@/d?host=/tmp",
        "postgres://u@/d?host=/run/postgresql/deeper",
        "postgres://u@/d?host=/",
    ] {
        assert!(!passes(allowed, url), "{url}");
    }
    assert!(!passes("10.0.0.0/8", "postgres://u@/d?host=/run/postgresql"));
}

#[test]
fn a_listed_name_that_means_this_machine_or_its_network_is_refused() {
    let url = "postgres://u@db.example/d";
    for inward in [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "0.1.2.3",
        "169.254.169.254",
        "168.63.129.16",
        "100.100.100.200",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "ff02::1",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
    ] {
        let refused = resolved("db.example", url, &["203.0.113.5", inward]);
        assert!(matches!(refused, Err(HostRefused::Inward { .. })), "{inward}: {refused:?}");
    }
    // A private network is where databases are.
    assert!(resolved("db.example", url, &["10.0.0.5", "2001:db8::5"]).is_ok());
    assert!(resolved("db.example, 127.0.0.0/8", url, &["127.0.0.1"]).is_ok());
    assert!(resolved("db.example, 127.0.0.0/8:6000", url, &["127.0.0.1"]).is_err());
    assert!(matches!(resolved("db.example", url, &[]), Err(HostRefused::Unresolved { .. })));
}

#[test]
fn what_was_looked_at_is_what_is_connected_to() {
    let url = "postgres://u@db.example:6000/d?sslmode=require";
    let reached = resolved("db.example", url, &["2001:db8::5", "203.0.113.5"]).unwrap();
    let pinned = reached.pin(&target(url));
    let options = pinned.to_connect_options();
    assert_eq!((options.get_host(), options.get_port()), ("203.0.113.5", 6000));
    // It is still called what it was called.
    assert_eq!(pinned.to_string(), target(url).to_string());
    // The certificate bears the name.
    let verified = target("postgres://u@db.example:6000/d?sslmode=verify-full");
    assert_eq!(reached.pin(&verified).to_connect_options().get_host(), "db.example");
}

#[tokio::test]
async fn an_address_needs_no_resolver_and_this_machines_name_is_not_taken_at_its_word() {
    let literal = list("192.0.2.0/24").check(&target("postgres://u@192.0.2.1/d")).await.unwrap();
    assert_eq!(literal, Reached { address: Some("192.0.2.1".parse().unwrap()) });
    let named = list("localhost").check(&target("postgres://u@localhost/d")).await;
    assert!(matches!(named, Err(HostRefused::Inward { .. })), "{named:?}");
    let listed = list("localhost, 127.0.0.0/8, ::1").check(&target("postgres://u@localhost/d")).await;
    assert!(listed.is_ok(), "{listed:?}");
}

#[test]
fn a_list_is_read_as_it_is_shown_and_nonsense_is_named() {
    let text =
        "db.example, *.pool.example:5432, 10.0.0.0/8:6432, [2001:db8::/32]:5432, ::1/128, /run/postgresql";
    assert_eq!(list(text).to_string(), text);
    assert_eq!(list(&list(text).to_string()), list(text));
    assert_eq!(list("10.0.0.1").to_string(), "10.0.0.1/32");
    assert_eq!(list("::ffff:10.0.0.0/104").to_string(), "10.0.0.0/8");
    for wrong in
        ["*", "*.", "a b", "db.example:0", "db.example:99999", "10.0.0.0/40", "/run/../x", "/", "a/b", "*x.y"]
    {
        let error = wrong.parse::<AllowedHosts>().unwrap_err();
        assert!(error.to_string().contains(wrong), "{error}");
    }
    assert!("".parse::<AllowedHosts>().unwrap().is_empty());
}

#[tokio::test]
async fn a_name_that_is_kept_may_mean_this_machine_and_nothing_of_its_network() {
    let url = target("postgres://u@db.example/d");
    let kept = |allowed: &str, addresses: &[&str]| {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        list(allowed).check_kept_addresses(&url, &addresses)
    };
    for fine in [&["127.0.0.1"][..], &["::1", "127.0.0.1"], &["10.0.0.5"], &["203.0.113.5"]] {
        assert!(kept("", fine).is_ok(), "{fine:?}");
    }
    for inward in ["169.254.169.254", "fe80::1", "fd00:ec2::254", "::ffff:169.254.1.1", "0.0.0.0"] {
        let refused = kept("", &["127.0.0.1", inward]);
        assert!(matches!(refused, Err(HostRefused::Inward { .. })), "{inward}: {refused:?}");
    }
    assert!(kept("169.254.0.0/16", &["169.254.1.1"]).is_ok());
    assert!(list("").check_kept(&target("postgres://u@localhost/d")).await.is_ok());
    // An address and a socket lead where they led.
    for url in ["postgres://u@169.254.1.1/d", "postgres://u@/d?host=/run/x"] {
        assert!(list("").check_kept(&target(url)).await.is_ok());
    }
}
