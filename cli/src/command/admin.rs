//! `admin add | list | revoke`.

use epsilon_proto::api::{
    Admin as AdminFacts, AdminAddRequest, AdminAdded, AdminList, AdminRevokeRequest, AdminRevoked,
    AdminState, Time, paths,
};

use super::{Context, now};
use crate::args::Admin;
use crate::human::{self, clean};
use crate::screen::Look;
use crate::style::Tone;
use crate::table::{Cell, Table};
use crate::{Exit, Failure, secret};

pub(super) async fn run(command: Admin, context: &Context) -> Result<Exit, Failure> {
    let Context { client, screen, .. } = context;
    match command {
        Admin::Add { node, root_key } => {
            let root_key = root_key.as_deref().map(secret::root_key).transpose()?;
            let request = AdminAddRequest { node, root_key };
            let added: AdminAdded = client.post(paths::ADMIN_ADD, &request).await?;
            screen.show(&added, |_| {
                clean(&format!(
                    "{} is an admin of {}, with the key {}.",
                    holder(&added.admin),
                    added.network,
                    human::short(&added.admin.key)
                )) + "\n"
            })?;
        }
        Admin::List => {
            let list: AdminList = client.get(paths::ADMINS, &[]).await?;
            screen.show(&list, |look| render(&list.admins, now(), look))?;
        }
        Admin::Revoke { admin, root_key } => {
            let root_key = root_key.as_deref().map(secret::root_key).transpose()?;
            let request = AdminRevokeRequest { admin, root_key };
            let revoked: AdminRevoked = client.post(paths::ADMIN_REVOKE, &request).await?;
            screen.show(&revoked, |_| {
                clean(&format!(
                    "The admin key {} of {} is revoked; the node stays a member.",
                    human::short(&revoked.admin.key),
                    holder(&revoked.admin)
                )) + "\n"
            })?;
        }
    }
    Ok(Exit::OK)
}

fn holder(admin: &AdminFacts) -> String {
    admin.node.as_ref().map_or("an unknown node".into(), human::node)
}

fn render(admins: &[AdminFacts], now: Time, look: Look) -> String {
    let mut table = Table::new(&["KEY", "NODE", "STATE", "ADDED"]);
    for admin in admins {
        let mut node = admin.node.as_ref().map_or("-".into(), human::node);
        if admin.own {
            node.push('*');
        }
        let (state, tone) = match admin.state {
            AdminState::Active => ("active", Tone::Good),
            AdminState::Revoked => ("revoked", Tone::Bad),
        };
        table.row([
            human::short(&admin.key).into(),
            node.into(),
            Cell::new(state, tone),
            human::ago(admin.added_at, now).into(),
        ]);
    }
    table.render(look.palette, look.width)
}
