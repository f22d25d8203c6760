//! `node list | revoke | rename | replace`.

use epsilon_proto::api::{
    Node as NodeFacts, NodeList, NodeRemoved, NodeRenamed, NodeReplaced, RenameRequest,
    ReplaceRequest, RevokeRequest, paths,
};

use super::{Context, count, peers};
use crate::args::Node;
use crate::human::{self, clean};
use crate::screen::Look;
use crate::style::Tone;
use crate::table::{Cell, Table};
use crate::{Exit, Failure};

pub(super) async fn run(command: Node, context: &Context) -> Result<Exit, Failure> {
    let Context { client, screen, .. } = context;
    match command {
        Node::List => {
            let list: NodeList = client.get(paths::NODES, &[]).await?;
            screen.show(&list, |look| render(&list.nodes, look))?;
        }
        Node::Revoke { node } => {
            let request = RevokeRequest { node };
            let removed: NodeRemoved = client.post(paths::NODE_REVOKE, &request).await?;
            screen.show(&removed, |_| {
                clean(&format!(
                    "{} is revoked; {}.",
                    human::node(&removed.node),
                    match removed.informed {
                        0 => "no other member is connected to hear of it yet".into(),
                        number => {
                            let members = count(number as usize, "connected member");
                            format!("it was sent to {members}, the others follow")
                        }
                    }
                )) + "\n"
            })?;
        }
        Node::Rename { node, name } => {
            let request = RenameRequest { node, name };
            let renamed: NodeRenamed = client.post(paths::NODE_RENAME, &request).await?;
            screen.show(&renamed, |_| {
                let before =
                    renamed.previous.clone().unwrap_or_else(|| human::short(&renamed.node.id));
                clean(&format!("{before} is now {}.", human::node(&renamed.node))) + "\n"
            })?;
        }
        Node::Replace { old, new } => {
            let request = ReplaceRequest { old, new };
            let replaced: NodeReplaced = client.post(paths::NODE_REPLACE, &request).await?;
            screen.show(&replaced, |_| {
                let with = match replaced.ipv4 {
                    Some(address) => format!(" and has its address {address}"),
                    None => String::new(),
                };
                let (old, new) = (human::short(&replaced.old.id), human::short(&replaced.new.id));
                clean(&format!(
                    "{} ({new}) takes the place of node {old}{with}.",
                    human::node(&replaced.new)
                )) + "\n"
            })?;
        }
    }
    Ok(Exit::OK)
}

fn render(nodes: &[NodeFacts], look: Look) -> String {
    let mut table =
        Table::new(&["NAME", "ID", "IPV4", "MEMBERSHIP", "STATE", "ROLES", "SITE", "TAGS", "IPV6"])
            .dispensable(&["IPV6", "TAGS", "SITE", "ROLES"]);
    for node in nodes {
        let (word, tone) = peers::membership(node.membership);
        let mut name = human::or_dash(node.name.clone().unwrap_or_default());
        if node.own {
            name.push('*');
        }
        let mut roles = human::roles(&node.roles);
        if node.admin {
            roles.push_str(",admin");
        }
        table.row([
            name.into(),
            human::short(&node.id).into(),
            human::or_dash(node.ipv4.map(|address| address.to_string()).unwrap_or_default()).into(),
            Cell::new(word, tone),
            if tone == Tone::Good { peers::state(node.state) } else { "-".into() },
            roles.into(),
            human::or_dash(node.site.clone().unwrap_or_default()).into(),
            human::list(&node.tags).into(),
            human::or_dash(node.ipv6.map(|address| address.to_string()).unwrap_or_default()).into(),
        ]);
    }
    table.render(look.palette, look.width)
}
