//! `debug`: what is counted for whoever looks for a fault.

use epsilon_proto::api::{Batches, Dataplane, paths};

use super::{Context, count};
use crate::args::Debug;
use crate::screen::Look;
use crate::table::Table;
use crate::{Exit, Failure};

pub(super) async fn run(command: Debug, context: &Context) -> Result<Exit, Failure> {
    match command {
        Debug::Dataplane => {
            let counted: Dataplane = context.client.get(paths::DATAPLANE, &[]).await?;
            context.screen.show(&counted, |look| dataplane(&counted, look))?;
            Ok(Exit::OK)
        }
    }
}

fn dataplane(counted: &Dataplane, look: Look) -> String {
    let state = |on| if on { "on" } else { "off" };
    let mut text = format!(
        "interface {}: {}, offload {}; UDP segmentation {}\n\n",
        counted.interface,
        count(counted.threads as usize, "thread"),
        state(counted.interface_offload),
        state(counted.udp_segmentation)
    );
    let mut table =
        Table::new(&["", "CALLS", "MESSAGES", "PACKETS", "MESSAGES/CALL", "PACKETS/MESSAGE"]);
    for (name, batches) in [
        ("from network", counted.network_in),
        ("to host", counted.host_out),
        ("from host", counted.host_in),
        ("to network", counted.network_out),
    ] {
        let Batches { calls, messages, packets } = batches;
        table.row([
            name.into(),
            calls.to_string().into(),
            messages.to_string().into(),
            packets.to_string().into(),
            per(messages, calls).into(),
            per(packets, messages).into(),
        ]);
    }
    text.push_str(&table.render(look.palette, look.width));
    if counted.dropped.is_empty() {
        text.push_str("\nnothing was dropped\n");
        return text;
    }
    let mut table = Table::new(&["DROPPED", "PACKETS", "MEANING"]).dispensable(&["MEANING"]);
    for drops in &counted.dropped {
        table.row([
            drops.reason.as_str().into(),
            drops.packets.to_string().into(),
            drops.meaning.as_str().into(),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render(look.palette, look.width));
    text
}

/// A quotient with one decimal.
fn per(whole: u64, parts: u64) -> String {
    match (whole * 10).checked_div(parts) {
        Some(tenths) => format!("{}.{}", tenths / 10, tenths % 10),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::per;

    #[test]
    fn quotients_have_one_decimal() {
        assert_eq!([per(0, 0), per(3, 2), per(45, 1)], ["-", "1.5", "45.0"]);
    }
}
