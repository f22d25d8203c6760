//! What is remembered of who is grounded, against what is computed anew.

use std::sync::Arc;

use super::*;

/// Those who may be members, and who may introduce them.
const SEEDS: std::ops::Range<u8> = 3..9;

#[derive(Debug, Clone)]
enum Step {
    /// A record, with words by some keys for the invite it came by, or for another.
    Record {
        seed: u8,
        sequence: u64,
        by: Vec<(u8, bool)>,
    },
    Remove(u8),
    RevokeNode(u8),
    Grant(u8),
    RevokeAdmin(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let by = proptest::collection::vec((prop_oneof![Just(ADMIN), SEEDS], any::<bool>()), 0..4);
    prop_oneof![
        8 => (SEEDS, 1..9_u64, by)
            .prop_map(|(seed, sequence, by)| Step::Record { seed, sequence, by }),
        2 => SEEDS.prop_map(Step::Remove),
        1 => SEEDS.prop_map(Step::RevokeNode),
        1 => SEEDS.prop_map(Step::Grant),
        1 => prop_oneof![Just(ADMIN), SEEDS].prop_map(Step::RevokeAdmin),
    ]
}

fn take(view: &mut View, step: Step) {
    match step {
        Step::Record { seed, sequence, by } => {
            let word = |(by, is_for_it): &(u8, bool)| {
                let invite = if *is_for_it { INVITE } else { OTHER_INVITE };
                let invite = Some(key(invite).public());
                introduction(seed, *by, 5_000, NodeFacts { invite, ..NodeFacts::default() })
            };
            let introductions = by.iter().filter(|(by, _)| *by != seed).map(word).collect();
            let signed = sign_record(&NodeRecord { sequence, introductions, ..record(seed) });
            let _ = view.members.merge_believed(&signed, &view.trust, &Strict);
        }
        Step::Remove(seed) => drop(view.members.remove(node(seed))),
        Step::RevokeNode(seed) => learn_again(view, Revoked::Node(node(seed))),
        Step::RevokeAdmin(seed) => learn_again(view, Revoked::Admin(key(seed).public())),
        Step::Grant(seed) => {
            let grant = AdminGrant { key: key(seed).public(), name: String::new(), issued: NOW };
            let grant = NetworkDocument::Grant(sign(&grant, &root()));
            view.trust.merge(&grant, &Strict).unwrap();
        }
    }
}

fn learn_again(view: &mut View, revoked: Revoked) {
    let by = if matches!(revoked, Revoked::Admin(_)) { root() } else { key(ADMIN) };
    let revocation = sign(&Revocation { revoked, issued: NOW, came_by: None }, &by);
    view.trust.merge(&NetworkDocument::Revocation(revocation), &Strict).unwrap();
}

#[test]
fn a_record_that_says_the_same_of_its_introducers_changes_nothing_for_the_ground() {
    let mut view = View::with(&[record(3), introduced_by(4, 3)]);
    let before = view.members.grounded(&view.trust);
    let newer = NodeRecord { sequence: 2, is_open: true, ..introduced_by(4, 3) };
    assert_eq!(view.take(&newer), Ok(Merged::New));
    assert!(Arc::ptr_eq(&before, &view.members.grounded(&view.trust)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn who_is_grounded_is_remembered_as_it_would_be_found_anew(
        steps in proptest::collection::vec(step(), 0..40),
    ) {
        let mut view = View::new();
        for step in steps {
            take(&mut view, step);
            let anew = view.members.grounded_anew(&view.trust);
            prop_assert_eq!(view.members.grounded(&view.trust), anew);
        }
    }
}
