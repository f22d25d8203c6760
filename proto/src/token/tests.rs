use super::*;
use crate::key::Strict;
use crate::trust::Distribution;
use rand_core::SeedableRng as _;

fn token() -> Token {
    let mut random = rand_chacha::ChaCha20Rng::from_seed([1; 32]);
    let (root, admin) = (SecretKey::generate(&mut random), SecretKey::generate(&mut random));
    let id = root.network();
    let now = Timestamp(1_800_000_000_000);
    let network = NetworkBlock {
        name: "home".parse().unwrap(),
        range: crate::address::DEFAULT_RANGE,
        domain: "epsilon.internal".parse().unwrap(),
        founded: now,
    };
    let genesis =
        GenesisBlock { generation: 0, mode: None, distribution: Distribution::None, created: now };
    let grant = AdminGrant { key: admin.public(), name: "first".into(), issued: now };
    let charter = Charter { version: 1, issued: now, max_members: 1024 };
    let invite_key = invite_key(&mut random);
    let invite = Invite {
        key: invite_key.public(),
        roles: Roles::MEMBER,
        tags: vec!["edge".parse().unwrap()],
        issued: now,
        expires: Some(Timestamp(1_900_000_000_000)),
        uses: None,
    };
    Token::new(
        Signed::sign(&network, id, &root),
        Signed::sign(&genesis, id, &root),
        Signed::sign(&grant, id, &root),
        Signed::sign(&charter, id, &admin),
        Signed::sign(&invite, id, &admin),
        &invite_key,
        GateSecret::generate(0, &mut random),
        vec!["[2001:db8::1]:7755".parse().unwrap(), "vpn.example.org:7755".parse().unwrap()],
    )
}

#[test]
fn a_token_survives_its_text_form_even_wrapped() {
    let text = token().to_text();
    assert_eq!(text.parse(), Ok(token()));
    let wrapped: String = text
        .chars()
        .collect::<Vec<_>>()
        .chunks(60)
        .map(|line| line.iter().collect::<String>() + "\n  ")
        .collect();
    assert_eq!(wrapped.parse(), Ok(token()));
    assert!(text.len() < 1600, "{}", text.len());
}

#[test]
fn each_kind_of_wrong_token_has_its_own_error() {
    let text = token().to_text();
    let parse = |text: &str| text.parse::<Token>().unwrap_err();
    assert_eq!(parse(" \n"), TokenError::Empty);
    assert_eq!(parse("K10abc::server:x"), TokenError::NotAToken);
    assert_eq!(parse("epsilon"), TokenError::NotAToken);
    assert_eq!(parse("epsilon2_AAAA"), TokenError::NewerFormat("2".into()));
    assert_eq!(
        parse(&text.replace("epsilon1_", "epsilon12_")),
        TokenError::NewerFormat("12".into())
    );
    let mut typo = text.to_string();
    typo.replace_range(100..101, "!");
    assert_eq!(parse(&typo), TokenError::Character(101));
    assert_eq!(
        parse(&text[..text.len() - 5]),
        TokenError::Truncated { missing: 5, whole: text.len() }
    );
    assert!(matches!(parse("epsilon1_AA"), TokenError::Truncated { .. }));
    assert_eq!(parse(&format!("{}x", *text)), TokenError::TooLong(1));
}

#[test]
fn every_single_wrong_character_is_noticed() {
    let text = token().to_text();
    for position in PREFIX.len()..text.len() {
        let other = if &text[position..=position] == "A" { "B" } else { "A" };
        let mut typo = text.to_string();
        typo.replace_range(position..=position, other);
        assert!(typo.parse::<Token>().is_err(), "position {position}");
    }
}

#[test]
fn a_verified_token_admits_a_node_within_its_invite() {
    let verified = token().verify(&Strict).unwrap();
    let (id, invite) = (verified.id, verified.invite.clone());
    let node = SecretKey::from_seed(&[9; 32]).node();
    let certificate = verified.admit(node, Roles::MEMBER, Timestamp(5));
    let certificate = certificate.signed().verify_by(invite.key, id, &Strict).unwrap();
    assert!(certificate.is_within(&invite));
    assert_eq!(certificate.node, node);
}

#[test]
fn a_tampered_token_is_told_from_a_mistyped_one() {
    let mut mixed = token();
    let stranger = SecretKey::from_seed(&[3; 32]);
    mixed.invite = Signed::sign(
        &Invite { roles: Roles::ALL, ..(*mixed.invite.peek().unwrap()).clone() },
        NetworkId::from(mixed.network.signer()),
        &stranger,
    );
    assert!(matches!(mixed.verify(&Strict), Err(TokenError::Tampered(_))));
    let mut other_secret = token();
    other_secret.invite_secret = SecretBytes([4; 32]);
    assert!(matches!(other_secret.verify(&Strict), Err(TokenError::Secret)));
}

#[test]
fn an_expired_token_says_when() {
    let verified = token().verify(&Strict).unwrap();
    assert_eq!(verified.expired(Timestamp(1_899_999_999_999)), None);
    let since = Timestamp(1_900_000_000_000);
    assert_eq!(verified.expired(since), Some(since));
    assert_eq!(verified.expired(Timestamp(u64::MAX)), Some(since));
}

#[test]
fn hosts_with_ports_read_as_they_print() {
    for good in ["a:1", "vpn.example.org:7755", "192.0.2.1:7755", "[2001:db8::1]:7755"] {
        assert_eq!(good.parse::<HostPort>().unwrap().to_string(), good);
    }
    for bad in [
        "",
        "a",
        "a:",
        ":1",
        "a:0",
        "a:70000",
        "1.2.3:80",
        "::1:80",
        "a b:1",
        "-a:1",
        "192.0.2.1:0",
        "a:+80",
        "[fe80::1%2]:80",
    ] {
        assert!(bad.parse::<HostPort>().is_err(), "{bad}");
    }
}

#[test]
fn a_host_with_port_has_one_encoding() {
    for text in ["VPN.example.org:7755", "a:07755", "[2001:db8:0::1]:7755", "192.0.2.1:07755"] {
        assert!(text.parse::<HostPort>().is_ok(), "{text}");
        let written = wire::encode(&text.to_owned());
        assert!(
            matches!(wire::decode::<HostPort>(&written), Err(WireError::NotCanonical(_))),
            "{text}"
        );
    }
}

#[test]
fn debug_never_shows_the_secrets() {
    let shown = format!("{:?}", token());
    assert!(shown.contains("SecretBytes(..)"));
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "(epsilon[0-9]{0,2}_?)?[A-Za-z0-9_-]{0,64}.{0,4}") {
        let _ = text.parse::<Token>();
        let _ = text.parse::<HostPort>();
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..256)) {
        let _ = wire::decode::<Token>(&bytes);
    }
}
