//! WebSocket handshakes whose key is a subprotocol.

use crate::gate::{Admitted, Decision, Gate, KeyHeaderAction};
use crate::reply::cache::joined;
use crate::request::RequestHead;
use crate::request::websocket::{BEARER, HEADER, is_handshake, offered};

impl Gate {
    /// Returns whether a subprotocol may be a key, though `bearer` does not precede it.
    pub(super) fn is_protocol_claimed(&self, name: &[u8]) -> bool {
        // A format that claims any token would claim the names of subprotocols.
        self.is_claimed(name, |format| !format.is_vague())
    }

    /// Leaves the subprotocols other than the key in an admitted handshake.
    ///
    /// If `bearer` is among them, the response selects it unless the handler selects another one.
    #[cold]
    pub(super) fn keep_protocols<R: RequestHead>(
        &self,
        decision: Decision,
        request: &R,
        location: usize,
    ) -> Decision {
        if !is_handshake(request) {
            return decision;
        }
        let all = offered(request.values_at(location, HEADER));
        let is_key =
            |(name, is_marked): &(&[u8], bool)| *is_marked || self.is_protocol_claimed(name);
        let names: Vec<_> = all
            .filter(|own| !is_key(own))
            .map(|(name, _)| name)
            .collect();
        let success = if request.method() == "CONNECT" {
            200
        } else {
            101
        };
        let selects_bearer_at = names.contains(&BEARER.as_bytes()).then_some(success);
        let rest = joined(names.into_iter());
        decision.admitting(move |mut admitted: Admitted| {
            match &mut admitted.key_header {
                KeyHeaderAction::MarkSensitive(own) if *own == location => {}
                action if *action == KeyHeaderAction::Remove(location) => {
                    if !rest.is_empty() {
                        *action = KeyHeaderAction::Replace(location, rest.into());
                    }
                }
                _ => return admitted,
            }
            admitted.finish.selects_bearer_at = selects_bearer_at;
            admitted
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::denial::DenialKind;
    use crate::gate::tests::{World, reason, scheme};
    use crate::gate::{GateBuilder, Requirement, Verdict};
    use crate::key::{ForeignFormat, KeyKind};
    use crate::origin::OriginPolicy;
    use crate::request::KeyLocation;
    use crate::testing::TestResponse;

    /// A world whose key is publishable, and a gate that takes it from a handshake.
    fn world(change: impl FnOnce(GateBuilder) -> GateBuilder) -> (World, Gate) {
        let mut world = World::new();
        world.record.kind = KeyKind::Publishable;
        world.requirement = Requirement::new().kinds([KeyKind::Publishable]);
        world.feed();
        let gate = Gate::builder_from_replica(&world.replica, &scheme())
            .location(KeyLocation::x_client_key())
            .location(KeyLocation::websocket_protocol());
        let gate = change(gate).build().unwrap();
        (world, gate)
    }

    /// Offers these subprotocols, in which `KEY` stands for the key.
    fn offer(world: &mut World, lines: &[&str]) {
        let key = world.key.expose_secret();
        let lines = lines
            .iter()
            .map(|line| (HEADER, line.replace("KEY", key).into_bytes()));
        world.fields = lines.chain([("upgrade", b"websocket".into())]).collect();
    }

    fn admitted(world: &World, gate: &Gate) -> Admitted {
        match world.verdict(gate) {
            Verdict::Admit(admitted) => admitted,
            Verdict::Refuse(refusal) => panic!("{:?}", refusal.denial),
        }
    }

    /// What the response to an admitted handshake selects, if the handler answers like this.
    fn selected(mut admitted: Admitted, status: u16, by_handler: Option<&str>) -> Vec<String> {
        let mut response = TestResponse::new(status);
        if let Some(name) = by_handler {
            response = response.header(HEADER, name);
        }
        admitted.finish.apply(&mut response);
        let mut lines = response.lines();
        lines.retain(|line| line.starts_with(HEADER));
        lines
    }

    #[test]
    fn only_the_key_is_removed_and_bearer_is_selected_unless_the_handler_selects() {
        let (mut world, gate) = world(|gate| gate);
        let replace = |value: &str| KeyHeaderAction::Replace(1, value.into());
        let bearer = "sec-websocket-protocol: bearer";
        for (lines, action, selects) in [
            (&["bearer, KEY"][..], replace("bearer"), &[bearer][..]),
            (&["chat, bearer, KEY"], replace("chat, bearer"), &[bearer]),
            (
                &["chat", "bearer", "KEY", "a,,b"],
                replace("chat, bearer, a, b"),
                &[bearer],
            ),
            (&["KEY, bearer"], replace("bearer"), &[bearer]),
            (&["chat, KEY"], replace("chat"), &[]),
            (&["KEY"], KeyHeaderAction::Remove(1), &[]),
            (&["bearer, KEY, \u{e9}"], replace("bearer"), &[bearer]),
        ] {
            offer(&mut world, lines);
            let passed = admitted(&world, &gate);
            assert_eq!(passed.key_header, action, "{lines:?}");
            assert!(!format!("{passed:?}").contains(world.key.expose_secret()));
            assert_eq!(selected(passed, 101, None), selects, "{lines:?}");
            let own = selected(admitted(&world, &gate), 101, Some("chat"));
            assert_eq!(own, ["sec-websocket-protocol: chat"]);
            assert!(selected(admitted(&world, &gate), 403, None).is_empty());
            assert!(selected(admitted(&world, &gate), 200, None).is_empty());
        }
        offer(&mut world, &["bearer, KEY"]);
        world.fields.pop();
        world.method = "CONNECT";
        assert_eq!(selected(admitted(&world, &gate), 200, None), [bearer]);
    }

    #[test]
    fn a_handshake_is_left_alone_if_its_key_is_elsewhere_or_is_forwarded() {
        let (mut world, gate) = world(|gate| gate);
        offer(&mut world, &["chat"]);
        let key = world.key.expose_secret().as_bytes().to_vec();
        world.fields.push(("x-client-key", key));
        let passed = admitted(&world, &gate);
        assert_eq!(passed.key_header, KeyHeaderAction::Remove(0));
        assert!(selected(passed, 101, None).is_empty());
        let (mut world, gate) = self::world(GateBuilder::insecure_forward_key);
        offer(&mut world, &["bearer, KEY"]);
        let passed = admitted(&world, &gate);
        assert_eq!(passed.key_header, KeyHeaderAction::MarkSensitive(1));
        assert_eq!(selected(passed, 101, None).len(), 1);
    }

    #[test]
    fn a_handshake_is_checked_like_any_other_request() {
        let (mut world, gate) = world(|gate| gate);
        for (lines, denial) in [
            (&["bearer, nonsense"][..], DenialKind::Malformed),
            (&["bearer, 'KEY'"], DenialKind::QuotedKey),
            (&["bearer, KEY, KEY"], DenialKind::MultipleKeys),
            (&["bearer, vhk_live_k, KEY"], DenialKind::MultipleKeys),
            (&["bearer"], DenialKind::Missing),
            (&["chat"], DenialKind::Missing),
        ] {
            offer(&mut world, lines);
            assert_eq!(reason(world.verdict(&gate)), Err(denial), "{lines:?}");
        }
        offer(&mut world, &["bearer, KEY"]);
        world.record.origins = OriginPolicy::listed(["shop.example"]).unwrap();
        world.feed();
        assert_eq!(reason(world.verdict(&gate)), Err(DenialKind::OriginMissing));
        world
            .fields
            .push(("origin", b"https://shop.example".into()));
        assert_eq!(reason(world.verdict(&gate)), Ok(()));
        world.record.kind = KeyKind::Secret;
        world.feed();
        assert_eq!(reason(world.verdict(&gate)), Err(DenialKind::SecretExposed));
    }

    #[test]
    fn an_optional_route_passes_on_no_handshake_that_offers_a_key() {
        let (mut world, gate) = world(|gate| gate);
        world.requirement = world.requirement.clone().optional();
        for (lines, passes) in [
            (&["chat"][..], true),
            (&["bearer"], false),
            (&["bearer, nonsense"], false),
            (&["vhk_live_mistyped, chat"], false),
        ] {
            offer(&mut world, lines);
            assert_eq!(reason(world.verdict(&gate)).is_ok(), passes, "{lines:?}");
        }
    }

    #[test]
    fn an_imported_key_of_any_form_comes_after_bearer_and_claims_no_subprotocol() {
        let vague = ForeignFormat::new("").unwrap();
        let (mut world, gate) = world(|gate| gate.foreign_format(vague));
        // It has 20 characters, like the shortest imported key.
        offer(&mut world, &["graphql-transport-ws, bearer, KEY"]);
        let action = admitted(&world, &gate).key_header;
        let rest = "graphql-transport-ws, bearer";
        assert_eq!(action, KeyHeaderAction::Replace(1, rest.into()));
    }

    #[test]
    fn a_handshake_that_waits_for_the_store_loses_its_key_as_well() {
        let (mut world, gate) = world(|gate| gate);
        world.replica.on_demand(|_| true);
        offer(&mut world, &["chat, bearer, KEY"]);
        world.clock.advance(std::time::Duration::from_secs(60));
        let requirement = Arc::new(world.requirement.clone());
        let Decision::Pending(pending) = gate.check(&world, &requirement, None) else {
            panic!("memory is too old")
        };
        world.feed();
        let verdict = pending.with_timer(|_| std::future::pending());
        let Verdict::Admit(admitted) = crate::testing::block_on(verdict) else {
            panic!()
        };
        let rest = KeyHeaderAction::Replace(1, "chat, bearer".into());
        assert_eq!(admitted.key_header, rest);
        assert_eq!(selected(admitted, 101, None).len(), 1);
    }
}
