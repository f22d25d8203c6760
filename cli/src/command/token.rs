//! `token create | list | revoke | inspect`.

use epsilon_proto::api::{
    Invite, InviteState, Problem, Role, Secret, Time, TokenCreateRequest, TokenCreated, TokenFacts,
    TokenList, TokenRevokeRequest, TokenRevoked, paths,
};
use epsilon_proto::key::Strict;
use epsilon_proto::trust::Roles;

use super::{Context, count, now};
use crate::args::{Format, Token};
use crate::human;
use crate::screen::{Look, print};
use crate::style::Tone;
use crate::table::{Cell, Table};
use crate::{Exit, Failure, secret};

pub(super) async fn run(command: Token, context: &Context) -> Result<Exit, Failure> {
    let Context { client, screen, .. } = context;
    match command {
        Token::Create { role, tag, expires, uses } => {
            let request = TokenCreateRequest {
                roles: role,
                tags: tag,
                expires: expires.map(|expires| expires.0),
                uses,
            };
            let created: TokenCreated = client.post(paths::TOKEN_CREATE, &request).await?;
            if screen.format == Format::Table {
                let invite = &created.invite;
                screen.note(&format!(
                    "Token for {}, invite {}, roles {}, {}, {}.",
                    created.network,
                    human::short(&invite.id),
                    human::roles(&invite.roles),
                    uses_text(invite),
                    expiry_text(invite.expires_at, now()),
                ));
                print(&format!("{}\n", created.token.expose()))?;
            } else {
                screen.show(&created, |_| String::new())?;
            }
        }
        Token::List => {
            let list: TokenList = client.get(paths::TOKENS, &[]).await?;
            screen.show(&list, |look| render(&list.invites, now(), look))?;
        }
        Token::Revoke { invite, members } => {
            let request = TokenRevokeRequest { invite, members };
            let revoked: TokenRevoked = client.post(paths::TOKEN_REVOKE, &request).await?;
            screen.show(&revoked, |_| {
                let invite = human::short(&revoked.invite);
                if members {
                    let cut = count(revoked.members.len(), "member");
                    format!("Invite {invite} is revoked, and {cut} with it.\n")
                } else {
                    format!("Invite {invite} is revoked; its members stay.\n")
                }
            })?;
        }
        Token::Inspect { token } => {
            let facts = inspect(&secret::token(token.as_deref())?)?;
            screen.show(&facts, |look| facts_text(&facts, now(), look))?;
        }
    }
    Ok(Exit::OK)
}

/// What `token` says, if all of its signatures hold.
fn inspect(token: &Secret) -> Result<TokenFacts, Problem> {
    let token = token
        .expose()
        .parse::<epsilon_proto::token::Token>()
        .and_then(|token| token.verify(&Strict))
        .map_err(Problem::from)?;
    let invite = &token.invite;
    let roles = [
        (Roles::MEMBER, Role::Member),
        (Roles::WORKER, Role::Worker),
        (Roles::SERVER, Role::Server),
    ];
    Ok(TokenFacts {
        network: token.network.name.to_string(),
        id: token.id.to_string(),
        ipv4_range: token.network.range.to_string(),
        domain: token.network.domain.to_string(),
        invite: invite.key.to_string(),
        roles: roles
            .into_iter()
            .filter(|(bit, _)| invite.roles.contains(*bit))
            .map(|(_, role)| role)
            .collect(),
        tags: invite.tags.iter().map(ToString::to_string).collect(),
        expires_at: invite.expires.map(|expires| Time::from_unix_ms(expires.0)),
        max_uses: invite.uses,
        addresses: token.addresses.iter().map(ToString::to_string).collect(),
    })
}

fn render(invites: &[Invite], now: Time, look: Look) -> String {
    let mut table = Table::new(&["INVITE", "STATE", "ROLES", "TAGS", "USES", "EXPIRES", "CREATED"])
        .dispensable(&["CREATED", "TAGS"]);
    for invite in invites {
        let (state, tone) = match invite.state {
            InviteState::Active => ("active", Tone::Good),
            InviteState::Expired => ("expired", Tone::Faint),
            InviteState::UsedUp => ("used up", Tone::Faint),
            InviteState::Revoked => ("revoked", Tone::Bad),
            _ => ("unknown", Tone::Faint),
        };
        table.row([
            human::short(&invite.id).into(),
            Cell::new(state, tone),
            human::roles(&invite.roles).into(),
            human::list(&invite.tags).into(),
            match invite.max_uses {
                Some(most) => format!("{} of {most}", invite.uses),
                None => invite.uses.to_string(),
            }
            .into(),
            match invite.expires_at {
                Some(expires) => human::until(expires, now),
                None => "never".into(),
            }
            .into(),
            human::ago(invite.created_at, now).into(),
        ]);
    }
    table.render(look.palette, look.width)
}

fn facts_text(facts: &TokenFacts, now: Time, look: Look) -> String {
    let mut table = Table::new(&["", ""]);
    let mut say = |what: &'static str, text: String| {
        table.row([Cell::new(what, Tone::Faint), text.into()]);
    };
    say("network", facts.network.clone());
    say("id", facts.id.clone());
    say("range", facts.ipv4_range.clone());
    say("domain", facts.domain.clone());
    say("invite", facts.invite.clone());
    say("roles", human::roles(&facts.roles));
    say("tags", human::list(&facts.tags));
    say("uses", facts.max_uses.map_or("any number".into(), |most| format!("at most {most}")));
    say(
        "expires",
        match facts.expires_at {
            Some(at) => format!("{} UTC ({})", human::moment(at), human::until(at, now)),
            None => "never".into(),
        },
    );
    say("addresses", human::list(&facts.addresses));
    table.render_bare(look.palette)
}

fn uses_text(invite: &Invite) -> String {
    match invite.max_uses {
        Some(most) => format!("for {}", count(most as usize, "machine")),
        None => "for any number of machines".into(),
    }
}

fn expiry_text(expires: Option<Time>, now: Time) -> String {
    match expires {
        Some(at) => format!("ends {}", human::until(at, now)),
        None => "never ends".into(),
    }
}

#[cfg(test)]
mod tests {
    use epsilon_proto::clock::Timestamp;
    use epsilon_proto::document::Signed;
    use epsilon_proto::gate::GateSecret;
    use epsilon_proto::key::SecretKey;
    use epsilon_proto::token::Token;
    use epsilon_proto::trust::{
        self, AdminGrant, Charter, Distribution, GenesisBlock, NetworkBlock,
    };

    use super::*;
    use crate::style::Palette;

    const MADE: Timestamp = Timestamp(1_795_169_053_000);

    /// A token whose invite `admin` signed and the grant names `named`.
    fn token(admin: u8, named: u8) -> Secret {
        let key = |seed: u8| SecretKey::from_seed(&[seed; 32]);
        let (root, invite_key) = (key(1), key(3));
        let id = root.network();
        let network = NetworkBlock {
            name: "blue".parse().unwrap(),
            range: "10.77.0.0/16".parse().unwrap(),
            domain: "blue.internal".parse().unwrap(),
            founded: MADE,
        };
        let genesis = GenesisBlock {
            generation: 0,
            mode: None,
            distribution: Distribution::None,
            created: MADE,
        };
        let grant = AdminGrant { key: key(named).public(), name: "first".into(), issued: MADE };
        let charter = Charter { version: 1, issued: MADE, max_members: 1024 };
        let invite = trust::Invite {
            key: invite_key.public(),
            roles: Roles::MEMBER.union(Roles::SERVER),
            tags: vec!["edge".parse().unwrap()],
            issued: MADE,
            expires: Some(MADE.after(std::time::Duration::from_hours(24))),
            uses: Some(3),
        };
        let token = Token::new(
            Signed::sign(&network, id, &root),
            Signed::sign(&genesis, id, &root),
            Signed::sign(&grant, id, &root),
            Signed::sign(&charter, id, &key(admin)),
            Signed::sign(&invite, id, &key(admin)),
            &invite_key,
            GateSecret::generate(0, &mut rand_chacha::ChaCha20Rng::from_seed([4; 32])),
            vec!["vpn.example.org:7755".parse().unwrap()],
        );
        Secret::new(token.to_text().to_string())
    }

    use rand_chacha::rand_core::SeedableRng as _;

    #[test]
    fn a_token_tells_everything_but_its_secrets() {
        let token = token(2, 2);
        let facts = inspect(&token).unwrap();
        assert_eq!((facts.network.as_str(), facts.max_uses), ("blue", Some(3)));
        assert_eq!(facts.roles, [Role::Member, Role::Server]);
        let text = facts_text(
            &facts,
            Time::from_unix_ms(MADE.0),
            Look { palette: Palette::PLAIN, width: None },
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "network    blue");
        assert_eq!(lines[5], "roles      member,server");
        assert_eq!(lines[8], "expires    2026-11-21 10:04:13 UTC (in 24 h)");
        assert_eq!(lines[9], "addresses  vpn.example.org:7755");
        assert!(!text.contains(token.expose()));
    }

    #[test]
    fn a_token_of_somebody_who_is_no_admin_is_refused() {
        let problem = inspect(&token(9, 2)).unwrap_err();
        assert!(problem.message.contains("tampered"), "{}", problem.message);
    }
}
