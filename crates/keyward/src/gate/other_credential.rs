//! Keys beside other credentials in `Authorization`, such as a JWT.

use crate::denial::DenialKind;
use crate::gate::{Gate, Requirement};
use crate::key::ForeignFormat;
use crate::request::authorization::{beginnings, one_credential};
use crate::request::{Credential, KeyLocation, RequestHead};

/// Which other credentials a route accepts in `Authorization`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OtherCredential {
    /// It may stand in place of a key.
    pub(crate) replaces_key: bool,
    /// It may stand beside a key.
    pub(crate) beside_key: bool,
}

impl OtherCredential {
    pub(crate) fn is_accepted(self) -> bool {
        self.replaces_key || self.beside_key
    }
}

/// The content of `Authorization`, on a route that accepts other credentials.
enum Authorization {
    Absent,
    /// One credential that is no key.
    Other,
    /// A key, or anything else.
    KeyOrUnclear,
}

impl Gate {
    /// Finds the key of a request, and its location, on a route that accepts other credentials.
    ///
    /// It is `None` if the request passes as anonymous.
    #[cold]
    pub(super) fn find_beside_other<'a, R: RequestHead>(
        &'a self,
        request: &'a R,
        requirement: &Requirement,
    ) -> Result<Option<(&'a [u8], usize)>, DenialKind> {
        let accepted = requirement.other_credential();
        let authorization = self.authorization(request);
        let is_other = matches!(authorization, Authorization::Other);
        let is_searched = |own: &KeyLocation| !(is_other && own.is_authorization());
        let (key, location) = match self.find_key(request, is_searched) {
            Credential::Empty => return Err(DenialKind::Missing),
            Credential::Several => return Err(DenialKind::MultipleKeys),
            Credential::One(key, location) => (key, location),
            Credential::Absent => {
                let passes = match authorization {
                    Authorization::Absent => requirement.is_optional(),
                    Authorization::Other => accepted.replaces_key || requirement.is_optional(),
                    Authorization::KeyOrUnclear => false,
                };
                return if passes {
                    Ok(None)
                } else {
                    Err(DenialKind::Missing)
                };
            }
        };
        if self.is_alone(&authorization, location, accepted) {
            Ok(Some((key, location)))
        } else {
            Err(DenialKind::OtherCredential)
        }
    }

    /// Returns whether an inner layer refuses a request whose key an outer layer has admitted, because
    /// of the credential beside it.
    #[cold]
    pub(super) fn refuses_beside<R: RequestHead>(
        &self,
        request: &R,
        location: usize,
        accepted: OtherCredential,
    ) -> bool {
        !self.is_alone(&self.authorization(request), location, accepted)
    }

    /// Returns whether a key has nothing beside it, or what is accepted there.
    fn is_alone(
        &self,
        authorization: &Authorization,
        location: usize,
        accepted: OtherCredential,
    ) -> bool {
        match authorization {
            Authorization::Absent => true,
            Authorization::Other => accepted.beside_key,
            Authorization::KeyOrUnclear => {
                let location = self.inner.locations.get(location);
                location.is_some_and(KeyLocation::is_authorization)
            }
        }
    }

    fn authorization<R: RequestHead>(&self, request: &R) -> Authorization {
        let mut lines = request.values("authorization");
        match (lines.next(), lines.next()) {
            (None, _) => Authorization::Absent,
            (Some(line), None) if self.is_other(line) => Authorization::Other,
            _ => Authorization::KeyOrUnclear,
        }
    }

    /// Returns whether a line of `Authorization` is one credential that no format claims.
    fn is_other(&self, line: &[u8]) -> bool {
        let Some((scheme, credential)) = one_credential(line) else {
            return false;
        };
        let is = |name: &str| scheme.eq_ignore_ascii_case(name.as_bytes());
        let mut schemes = self.inner.locations.iter().map(KeyLocation::challenge);
        let is_for_keys = !is("Bearer") && schemes.any(is);
        !is_for_keys && !self.is_claimed(credential, |_| true)
    }

    /// Returns whether a format claims a part of a text: it may be a key.
    pub(super) fn is_claimed(&self, text: &[u8], counts: impl Fn(&ForeignFormat) -> bool) -> bool {
        beginnings(text).any(|text| {
            let mut own = self.inner.scheme.accepted().iter();
            let mut foreign = self.inner.foreign.iter().filter(|format| counts(format));
            own.any(|format| format.claims(text)) || foreign.any(|format| format.claims(text))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::gate::tests::World;
    use crate::gate::{Access, Admitted, Decision, GateBuilder, Verdict};
    use crate::key::KeyFormat;
    use crate::limit::RateLimit;
    use crate::scheme::KeyScheme;
    use crate::testing::TestResponse;
    use crate::throttle::AuthFailureLimiter;

    const JWT: &str = "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2ln";
    const A: &str = "authorization";
    const X: &str = "x-api-key";

    /// A header of a request.
    type Line<'a> = (&'static str, &'a str);

    /// The outcome of a request: who passes, or why nobody does.
    type Outcome = Result<&'static str, DenialKind>;

    fn admitted(verdict: Verdict) -> Result<Admitted, DenialKind> {
        match verdict {
            Verdict::Admit(admitted) => Ok(admitted),
            Verdict::Refuse(refusal) => Err(refusal.denial.unwrap().kind()),
        }
    }

    fn ask(gate: &Gate, requirement: &Requirement, lines: &[(&'static str, String)]) -> Outcome {
        let world = World {
            fields: lines
                .iter()
                .map(|(name, line)| (*name, line.as_bytes().to_vec()))
                .collect(),
            ..World::new()
        };
        let Decision::Ready(verdict) = gate.check(&world, &Arc::new(requirement.clone()), None)
        else {
            panic!("not decided at once")
        };
        Ok(match admitted(verdict)?.access {
            Some(Access::Principal(_)) => "key",
            Some(Access::Anonymous(_)) => "anonymous",
            None => "nobody",
        })
    }

    fn build(change: impl FnOnce(GateBuilder) -> GateBuilder) -> (World, Gate, String) {
        let world = World::new();
        world.feed();
        let gate = change(world.builder()).build().unwrap();
        let key = world.key.expose_secret().to_owned();
        (world, gate, key)
    }

    #[test]
    fn another_credential_passes_in_place_of_a_key_beside_it_or_not_at_all() {
        use DenialKind::{Malformed, Missing, MultipleKeys, OtherCredential};
        let (_, gate, key) = build(|gate| gate);
        let plain = Requirement::new;
        let routes = [
            plain(),
            plain().or_other_credential(),
            plain().beside_other_credential(),
            plain().or_other_credential().beside_other_credential(),
            plain().or_other_credential().optional(),
        ];
        let bearer = format!("Bearer {key}");
        let token = format!("Token {key}");
        let (jwt, basic, digest) = (JWT, "Basic dTpw", "Digest username=\"a, b\", nc=1");
        let two = "Basic dTpw, Negotiate x";
        #[rustfmt::skip]
        let table: [(&[Line<'_>], [Outcome; 5]); 19] = [
            (&[], [Err(Missing), Err(Missing), Err(Missing), Err(Missing), Ok("anonymous")]),
            (&[(A, jwt)], [Err(Malformed), Ok("anonymous"), Err(Missing), Ok("anonymous"), Ok("anonymous")]),
            (&[(A, basic)], [Err(Missing), Ok("anonymous"), Err(Missing), Ok("anonymous"), Ok("anonymous")]),
            (&[(A, digest)], [Err(Missing), Ok("anonymous"), Err(Missing), Ok("anonymous"), Ok("anonymous")]),
            (&[(X, &key)], [Ok("key"); 5]),
            (&[(A, &bearer)], [Ok("key"); 5]),
            (&[(X, &key), (A, jwt)], [Err(MultipleKeys), Err(OtherCredential), Ok("key"), Ok("key"), Err(OtherCredential)]),
            (&[(X, &key), (A, basic)], [Ok("key"), Err(OtherCredential), Ok("key"), Ok("key"), Err(OtherCredential)]),
            (&[(X, "nonsense"), (A, jwt)], [Err(MultipleKeys), Err(OtherCredential), Err(Malformed), Err(Malformed), Err(OtherCredential)]),
            (&[(X, &key), (A, &bearer)], [Err(MultipleKeys); 5]),
            (&[(X, &key), (A, two)], [Ok("key"), Err(OtherCredential), Err(OtherCredential), Err(OtherCredential), Err(OtherCredential)]),
            (&[(X, &key), (A, "")], [Ok("key"), Err(OtherCredential), Err(OtherCredential), Err(OtherCredential), Err(OtherCredential)]),
            (&[(X, ""), (A, jwt)], [Err(Malformed), Err(Missing), Err(Missing), Err(Missing), Err(Missing)]),
            (&[(A, two)], [Err(Missing); 5]),
            (&[(A, &token)], [Err(Missing); 5]),
            (&[(A, jwt), (A, jwt)], [Err(MultipleKeys); 5]),
            (&[(A, basic), (A, jwt)], [Err(MultipleKeys); 5]),
            (&[(A, "Bearer  ")], [Err(Missing); 5]),
            (&[(A, "eyJhbGciOiJub25lIn0.e30.")], [Err(Missing); 5]),
        ];
        for (lines, outcomes) in table {
            let lines: Vec<_> = lines
                .iter()
                .map(|(name, line)| (*name, (*line).to_owned()))
                .collect();
            for (number, (route, outcome)) in routes.iter().zip(outcomes).enumerate() {
                assert_eq!(ask(&gate, route, &lines), outcome, "{number} {lines:?}");
            }
        }
    }

    #[test]
    fn what_may_be_a_key_is_refused_wherever_it_stands_in_the_header() {
        let (_, gate, key) = build(|gate| gate);
        let routes = [
            Requirement::new().or_other_credential(),
            Requirement::new().or_other_credential().optional(),
        ];
        let flipped = format!("{}?", &key[..key.len() - 1]);
        for line in [
            format!("Bearer {flipped}"),
            format!("Bearer {}", &key[..20]),
            format!("Bearer {}", &key[..4]),
            format!("Bearer {}", key.to_uppercase()),
            format!("Bearer {}", key.replace("_live_", "_LIVE_")),
            format!("Bearer \"{key}\""),
            format!("Bearer '{key}'"),
            format!("Bearer <{key}>"),
            format!("Bearer [{key}]"),
            format!("Bearer Bearer {key}"),
            format!("Bearer {key} x"),
            format!("Bearer x {key}"),
            format!("Bearer {key}, {JWT}"),
            format!("{JWT}, Bearer {key}"),
            format!("{JWT}, {JWT}"),
            format!("Bearer user:{key}"),
            format!("Bearer key={key}"),
            format!("Bearer\t{key}"),
            format!("Bearer:{key}"),
            format!("Token {key}"),
            format!("Token token=\"{key}\""),
            format!("Token a=b, token=\"{key}\""),
            format!("Digest {key}"),
            format!("ApiKey {key}"),
            "ApiKey nonsense".to_owned(),
            "apikey eyJhbGciOiJub25lIn0.e30.".to_owned(),
            key.clone(),
        ] {
            for route in &routes {
                let outcome = ask(&gate, route, &[(A, line.clone())]);
                assert!(outcome.is_err(), "{line}: {outcome:?}");
            }
        }
        // A key of no format of the gate, and what merely holds such letters, is none of ours.
        for line in [
            "Bearer xyz_live_abc",
            "Bearer eyJ.vhk_live_x",
            "Basic dmhrX2xpdmVfeA==",
        ] {
            let outcome = ask(&gate, &routes[0], &[(A, line.to_owned())]);
            assert_eq!(outcome, Ok("anonymous"), "{line}");
        }
    }

    #[test]
    fn a_format_claims_by_its_prefix_or_its_whole_form() {
        let foreign = |prefix| ForeignFormat::new(prefix).unwrap();
        let letters = |length| "a".repeat(length);
        for (format, claimed, free) in [
            (
                foreign("ext_"),
                "EXT_short".to_owned(),
                "exs_short".to_owned(),
            ),
            (
                foreign("").secret_after('|'),
                format!("12|{}", letters(40)),
                letters(43),
            ),
            (foreign("").lengths(64..=64), letters(64), letters(63)),
        ] {
            let (_, gate, _) = build(|gate| gate.foreign_format(format));
            let route = Requirement::new().or_other_credential();
            gate.assert_meetable(&route);
            let line = format!("Bearer {free}");
            assert_eq!(ask(&gate, &route, &[(A, line)]), Ok("anonymous"));
            let line = format!("Bearer {claimed}");
            assert!(ask(&gate, &route, &[(A, line)]).is_err());
        }
        // Where the environment comes first, the prefix is that and what follows.
        let world = World::new();
        let scheme = KeyScheme::new(KeyFormat::new("{env}_").unwrap());
        let gate = world.builder_with(&scheme).build().unwrap();
        let route = Requirement::new().or_other_credential();
        for (credential, is_claimed) in [
            ("live_x", true),
            ("Staging_", true),
            ("_x", false),
            ("live-x", false),
            ("abcdefghijklmnop_", false),
            ("eyJhbGciOiJub25lIn0.e30.", false),
        ] {
            let outcome = ask(&gate, &route, &[(A, format!("Bearer {credential}"))]);
            assert_eq!(outcome.is_err(), is_claimed, "{credential}");
        }
    }

    #[test]
    fn a_format_that_claims_any_token_makes_no_route_for_other_credentials() {
        for (format, is_vague) in [
            (ForeignFormat::new("").unwrap(), true),
            (ForeignFormat::new("").unwrap().secret_after('.'), true),
            (ForeignFormat::new("").unwrap().secret_after('|'), false),
            (ForeignFormat::new("").unwrap().lengths(64..=64), false),
            (ForeignFormat::new("x").unwrap(), false),
        ] {
            let (_, gate, _) = build(|gate| gate.foreign_format(format.clone()));
            gate.assert_meetable(&Requirement::new().optional());
            for route in [
                Requirement::new().or_other_credential(),
                Requirement::new().beside_other_credential(),
            ] {
                let asserting = || gate.assert_meetable(&route);
                let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(asserting));
                assert_eq!(panics.is_err(), is_vague, "{format:?}");
            }
        }
    }

    #[test]
    fn another_credential_counts_as_no_failure_and_a_mistyped_key_does() {
        let limiter = AuthFailureLimiter::new(RateLimit::parse("1/60;1").unwrap());
        let (_, gate, key) = build(|gate| gate.failure_throttle(limiter));
        let route = Requirement::new().or_other_credential();
        for _ in 0..5 {
            assert_eq!(ask(&gate, &route, &[(A, JWT.to_owned())]), Ok("anonymous"));
        }
        assert_eq!(ask(&gate, &route, &[(X, key.clone())]), Ok("key"));
        let mistyped = [(A, "Bearer vhk_live_mistyped".to_owned())];
        assert_eq!(ask(&gate, &route, &mistyped), Err(DenialKind::Malformed));
        assert_eq!(ask(&gate, &route, &[(X, key)]), Err(DenialKind::Throttled));
    }

    #[test]
    fn an_inner_layer_that_needs_a_key_refuses_who_passed_with_another_credential() {
        let (mut world, gate, key) = build(|gate| gate);
        world.requirement = Requirement::new().or_other_credential();
        world.fields = vec![(A, JWT.into())];
        let outer = admitted(world.verdict(&gate)).unwrap();
        assert!(matches!(outer.access, Some(Access::Anonymous(_))));
        // An adapter hands on only principals.
        for (inner, denial) in [
            (Requirement::new(), Some(DenialKind::Malformed)),
            (Requirement::new().scope("kyc"), Some(DenialKind::Malformed)),
            (
                Requirement::new().beside_other_credential(),
                Some(DenialKind::Missing),
            ),
            (Requirement::new().or_other_credential(), None),
        ] {
            world.requirement = inner;
            assert_eq!(admitted(world.verdict(&gate)).err(), denial);
        }
        world.fields = vec![(X, key.into())];
        world.requirement = Requirement::new().or_other_credential();
        let Some(Access::Principal(principal)) = admitted(world.verdict(&gate)).unwrap().access
        else {
            panic!()
        };
        world.fields.clear();
        world.requirement = Requirement::new().or_other_credential().scope("kyc");
        let Decision::Ready(verdict) = world.check(&gate, Some(&principal)) else {
            panic!()
        };
        assert_eq!(admitted(verdict).err(), Some(DenialKind::ScopeMissing));
    }

    #[test]
    fn an_inner_layer_refuses_what_stands_beside_a_key_as_an_outer_one_would() {
        use DenialKind::OtherCredential;
        let (world, _, key) = build(|gate| gate);
        let only_own = Gate::builder_from_replica(&world.replica, &crate::gate::tests::scheme());
        let only_own = only_own.location(KeyLocation::x_api_key());
        let either = Requirement::new().or_other_credential();
        for (gate, key_line, beside, denials) in [
            (
                only_own,
                (X, key.clone()),
                JWT,
                [Some(OtherCredential), None],
            ),
            (
                world.builder(),
                (X, key.clone()),
                "Basic dTpw",
                [Some(OtherCredential), None],
            ),
            (
                world.builder(),
                (X, key.clone()),
                "Basic a, Negotiate b",
                [Some(OtherCredential); 2],
            ),
            (world.builder(), (X, key.clone()), "", [None; 2]),
            // It is not removed.
            (
                world.builder().insecure_forward_key(),
                (A, format!("Bearer {key}")),
                "",
                [None; 2],
            ),
        ] {
            let gate = gate.build().unwrap();
            let mut world = World {
                fields: vec![(key_line.0, key_line.1.into())],
                ..World::new()
            };
            if !beside.is_empty() {
                world.fields.push((A, beside.into()));
            }
            let Some(Access::Principal(principal)) = admitted(world.verdict(&gate)).unwrap().access
            else {
                panic!()
            };
            world.fields.retain(|(name, _)| *name != X);
            for (inner, denial) in [either.clone(), either.clone().beside_other_credential()]
                .into_iter()
                .zip(denials)
            {
                world.requirement = inner;
                let Decision::Ready(verdict) = world.check(&gate, Some(&principal)) else {
                    panic!()
                };
                assert_eq!(admitted(verdict).err(), denial, "{beside}");
            }
        }
    }

    #[test]
    fn a_grpc_call_passes_with_another_credential_and_is_refused_in_grpc_without() {
        let (mut world, gate, _) = build(|gate| gate);
        world.method = "POST";
        world.requirement = Requirement::new().or_other_credential().grpc();
        world.fields = vec![
            ("content-type", b"application/grpc".into()),
            (A, JWT.into()),
        ];
        assert!(admitted(world.verdict(&gate)).is_ok());
        world.fields.pop();
        let Verdict::Refuse(refusal) = world.verdict(&gate) else {
            panic!()
        };
        assert!(
            refusal
                .reply
                .headers()
                .any(|header| header == ("grpc-status", "16"))
        );
    }

    #[test]
    fn responses_vary_by_authorization_and_are_private() {
        let (mut world, _, key) = build(|gate| gate);
        let gate = Gate::builder_from_replica(
            &world.replica,
            &KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap()),
        );
        let gate = gate.location(KeyLocation::x_api_key()).build().unwrap();
        world.requirement = Requirement::new().or_other_credential();
        for fields in [vec![(X, key.into_bytes())], vec![(A, JWT.into())]] {
            world.fields = fields;
            let mut finish = admitted(world.verdict(&gate)).unwrap().finish;
            let mut response = TestResponse::new(200);
            finish.apply(&mut response);
            let lines = ["cache-control: private", "vary: x-api-key, authorization"];
            assert_eq!(response.lines(), lines);
        }
    }
}
