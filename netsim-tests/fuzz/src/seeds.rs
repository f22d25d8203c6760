//! The inputs with which the targets start.

use std::path::Path;

fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "control" => crate::control::seeds(),
        "datagrams" => crate::datagrams::seeds(),
        "documents" => crate::documents::seeds(),
        "messages" => crate::messages::seeds(),
        "offload" => crate::offload::seeds(),
        "packets" => crate::packets::seeds(),
        "saved" => crate::saved::seeds(),
        "seals" => crate::seals::seeds(),
        "text" => crate::text::seeds(),
        "token" => crate::token::seeds(),
        "trust" => crate::trust::seeds(),
        other => panic!("there is no target {other}"),
    }
}

/// Writes the target's seeds into its corpus: the first directory among the
/// arguments.
pub fn plant(target: &str) {
    let corpus = std::env::args().skip(1).find(|argument| Path::new(argument).is_dir());
    let Some(corpus) = corpus else { return };
    for (index, seed) in of(target).into_iter().enumerate() {
        let path = Path::new(&corpus).join(format!("seed-{index:02}"));
        std::fs::write(&path, seed)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Target = (&'static str, fn(&[u8]));

    #[test]
    fn every_target_takes_its_seeds_and_what_is_left_of_them() {
        let targets: [Target; 11] = [
            ("control", crate::control),
            ("datagrams", crate::datagrams),
            ("documents", crate::documents),
            ("messages", crate::messages),
            ("offload", crate::offload),
            ("packets", crate::packets),
            ("saved", crate::saved),
            ("seals", crate::seals),
            ("text", crate::text),
            ("token", crate::token),
            ("trust", crate::trust),
        ];
        for (name, target) in targets {
            let seeds = of(name);
            assert!(!seeds.is_empty(), "{name}");
            for seed in seeds {
                target(&seed);
                target(&seed[..seed.len() / 2]);
            }
        }
    }
}
