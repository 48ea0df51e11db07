//! Tests of the signature schemes and of the receiver.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use keyward::clock::ManualClock;
use keyward::error::ParseErrorKind;
use keyward::gate::KeyHeaderAction;
use keyward::request::{KeyLocation, RequestHead};
use proptest::prelude::*;

use crate::error::WebhookErrorKind;
use crate::receive::{
    Receipt, RecentWebhooks, WebhookAnswer, WebhookReceiver, WebhookReceiverBuilder, WebhookVerdict,
};
use crate::signature::secret::MacKey;
use crate::signature::{WebhookId, WebhookSecret, WebhookSigner, WebhookVerifier};

/// The test vector of the Standard Webhooks libraries.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const AT: u64 = 1_614_265_330;
const BODY: &[u8] = br#"{"test": 2432232314}"#;
const GOOD: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
/// A well-formed signature that matches no secret.
const OTHER: &str = "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const TEXT_SECRET: &str = "It's a Secret to Everybody";

struct Head(Vec<(&'static str, Vec<u8>)>);

impl Head {
    fn new<V: AsRef<[u8]>>(fields: impl IntoIterator<Item = (&'static str, V)>) -> Self {
        let fields = fields.into_iter();
        Self(
            fields
                .map(|(name, value)| (name, value.as_ref().to_vec()))
                .collect(),
        )
    }

    /// The test vector with another signature.
    fn signed(signature: &str) -> Self {
        let at = AT.to_string();
        Self::new([
            ("webhook-id", ID),
            ("webhook-timestamp", &at),
            ("webhook-signature", signature),
        ])
    }

    fn with(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, value.as_ref().to_vec()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.0.retain(|(known, _)| *known != name);
        self
    }

    fn twice(mut self, name: &'static str) -> Self {
        let line = self
            .0
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap()
            .clone();
        self.0.push(line);
        self
    }
}

impl RequestHead for Head {
    fn peer(&self) -> Option<std::net::IpAddr> {
        None
    }
    fn method(&self) -> &'static str {
        "POST"
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.0.iter().filter(move |(name, _)| *name == field);
        lines.map(|(_, value)| &value[..])
    }
}

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn standard() -> WebhookVerifier {
    WebhookVerifier::standard(SECRET).unwrap()
}

fn now_or_never<T>(mut future: Pin<Box<dyn Future<Output = T> + Send>>) -> T {
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(ready) => ready,
        Poll::Pending => panic!("the memory of this process never waits"),
    }
}

fn hex(bytes: [u8; 32]) -> String {
    format!("{bytes:02x?}").replace(['[', ']', ',', ' '], "")
}

#[test]
fn a_standard_signature_is_taken_only_as_it_should_be() {
    use WebhookErrorKind::{BadSignature, Malformed, Missing, RepeatedHeader, TooNew, TooOld};
    let signed = Head::signed;
    let list = |count: usize| vec![OTHER; count - 1].join(" ") + " " + GOOD;
    let long = format!("{} {GOOD}", "x".repeat(4096));
    let (id, at, signature) = ("webhook-id", "webhook-timestamp", "webhook-signature");
    #[rustfmt::skip]
    let table = [
        ("good", signed(GOOD), None),
        ("spaces around the values", signed(&format!(" {GOOD}\t")), None),
        ("the valid one first of several", signed(&format!("{GOOD} {OTHER}")), None),
        ("the valid one last of several", signed(&list(3)), None),
        ("the valid one last of as many as there may be", signed(&list(32)), None),
        ("one more", signed(&list(33)), Some(Malformed)),
        ("unknown versions before it", signed(&format!("v1a,{} v2,x v, , {GOOD}", &GOOD[3..])), None),
        ("an unknown version alone", signed(&format!("v2,{}", &GOOD[3..])), Some(BadSignature)),
        ("a version that begins alike", signed(&format!("v1a,{}", &GOOD[3..])), Some(BadSignature)),
        ("no version", signed(&GOOD[3..]), Some(BadSignature)),
        ("the version alone", signed("v1,"), Some(BadSignature)),
        ("a flipped bit", signed(&GOOD.replace("g0hM", "h0hM")), Some(BadSignature)),
        ("truncated", signed(&GOOD[..20]), Some(BadSignature)),
        ("without its padding", signed(&GOOD[..GOOD.len() - 1]), Some(BadSignature)),
        ("in the alphabet of URLs", signed(&GOOD.replace('+', "-").replace('/', "_")), Some(BadSignature)),
        ("in hexadecimal", signed("v1,83484cf52b04f8e4cf2531adfed9882ad4b2665137b852442d594d20e2c9d4e1"), Some(BadSignature)),
        ("longer by a byte", signed(&format!("v1,{}AA==", &GOOD[3..46])), Some(BadSignature)),
        ("separated by commas", signed(&format!("{OTHER},{GOOD}")), Some(BadSignature)),
        ("of another secret", signed(OTHER), Some(BadSignature)),
        ("empty", signed(""), Some(Missing)),
        ("spaces alone", signed("  "), Some(Missing)),
        ("huge", signed(&long), Some(Malformed)),
        ("not UTF-8", signed(GOOD).with(signature, b"v1,\xff"), Some(Malformed)),
        ("no signature", signed(GOOD).without(signature), Some(Missing)),
        ("two of them", signed(GOOD).twice(signature), Some(RepeatedHeader)),
        ("no id", signed(GOOD).without(id), Some(Missing)),
        ("an empty id", signed(GOOD).with(id, ""), Some(Missing)),
        ("another id", signed(GOOD).with(id, "msg_other"), Some(BadSignature)),
        ("two ids", signed(GOOD).twice(id), Some(RepeatedHeader)),
        ("an id with a dot", signed(GOOD).with(id, "msg.1"), Some(Malformed)),
        ("a huge id", signed(GOOD).with(id, "m".repeat(129)), Some(Malformed)),
        ("two ids in one line", signed(GOOD).with(id, "a, b"), Some(Malformed)),
        ("an id that is not ASCII", signed(GOOD).with(id, "é"), Some(Malformed)),
        ("no timestamp", signed(GOOD).without(at), Some(Missing)),
        ("two timestamps", signed(GOOD).twice(at), Some(RepeatedHeader)),
        ("an empty timestamp", signed(GOOD).with(at, ""), Some(Missing)),
        ("a timestamp with a zero before it", signed(GOOD).with(at, "01614265330"), Some(BadSignature)),
        ("a sign", signed(GOOD).with(at, "+1614265330"), Some(Malformed)),
        ("a negative timestamp", signed(GOOD).with(at, "-1614265330"), Some(Malformed)),
        ("a fraction", signed(GOOD).with(at, "1614265330.0"), Some(Malformed)),
        ("an exponent", signed(GOOD).with(at, "1e9"), Some(Malformed)),
        ("hexadecimal", signed(GOOD).with(at, "0x603800f2"), Some(Malformed)),
        ("digits of another script", signed(GOOD).with(at, "١٦١٤٢٦٥٣٣٠"), Some(Malformed)),
        ("a date", signed(GOOD).with(at, "2021-02-25T15:02:10Z"), Some(Malformed)),
        ("zero", signed(GOOD).with(at, "0"), Some(TooOld)),
        ("milliseconds", signed(GOOD).with(at, "1614265330000"), Some(TooNew)),
        ("the most that fits", signed(GOOD).with(at, u64::MAX.to_string()), Some(TooNew)),
        ("one more than fits", signed(GOOD).with(at, "18446744073709551616"), Some(Malformed)),
        ("huge", signed(GOOD).with(at, "9".repeat(400)), Some(Malformed)),
    ];
    for (about, head, expected) in table {
        let signed = standard().verify(&head, BODY, time(AT));
        assert_eq!(signed.err().map(|error| error.kind()), expected, "{about}");
    }
}

#[test]
fn the_names_of_svix_are_read_and_never_mixed_with_the_others() {
    use WebhookErrorKind::{BadSignature, Malformed, Missing, RepeatedHeader, TooOld};
    let (id, at, signature) = ("svix-id", "svix-timestamp", "svix-signature");
    let seconds = AT.to_string();
    let svix = || Head::new([(id, ID), (at, &seconds), (signature, GOOD)]);
    let both = |standard: Head, svix: Head| Head([standard.0, svix.0].concat());
    let (own_id, own_at, own_signature) = ("webhook-id", "webhook-timestamp", "webhook-signature");
    let other = || svix().with(signature, OTHER).with(id, "msg_other");
    #[rustfmt::skip]
    let table = [
        ("good", svix(), None),
        ("of another secret", svix().with(signature, OTHER), Some(BadSignature)),
        ("another id", svix().with(id, "msg_other"), Some(BadSignature)),
        ("old", svix().with(at, "1"), Some(TooOld)),
        ("malformed", svix().with(at, "now"), Some(Malformed)),
        ("two ids", svix().twice(id), Some(RepeatedHeader)),
        ("two signatures", svix().twice(signature), Some(RepeatedHeader)),
        ("no id", svix().without(id), Some(Missing)),
        ("no timestamp", svix().without(at), Some(Missing)),
        ("no signature", svix().without(signature), Some(Missing)),
        ("an id of the other family", svix().without(id).with(own_id, ID), Some(Missing)),
        ("a timestamp of it", svix().without(at).with(own_at, &seconds), Some(Missing)),
        ("a signature of it", svix().without(signature).with(own_signature, GOOD), Some(Missing)),
        ("one field of it too many", svix().with(own_id, ID), Some(Missing)),
        ("an empty one", svix().with(own_signature, ""), Some(Missing)),
        ("both, alike", both(Head::signed(GOOD), svix()), None),
        ("the standard's counts", both(Head::signed(GOOD), other()), None),
        ("the other does not", both(Head::signed(OTHER), svix()), Some(BadSignature)),
        ("nor to complete it", both(Head::signed(GOOD).without(own_id), svix()), Some(Missing)),
    ];
    for (about, head, expected) in table {
        let signed = standard().verify(&head, BODY, time(AT));
        if let Ok(signed) = &signed {
            assert_eq!(signed.id().map(WebhookId::as_str), Some(ID), "{about}");
        }
        assert_eq!(signed.err().map(|error| error.kind()), expected, "{about}");
    }
    for verifier in [WebhookVerifier::stripe, WebhookVerifier::github] {
        let signed = verifier(TEXT_SECRET)
            .unwrap()
            .verify(&svix(), BODY, time(AT));
        assert_eq!(signed.unwrap_err().kind(), Missing);
    }
    let (receiver, _) = receiver(standard(), |builder| builder);
    ask(&receiver, &svix(), BODY).unwrap().conclude(200);
    let again = ask(&receiver, &Head::signed(GOOD), BODY).unwrap_err();
    assert_eq!(
        again.error.unwrap().kind(),
        WebhookErrorKind::Replayed,
        "by either name"
    );
}

#[test]
fn a_timestamp_may_be_300_seconds_off_and_not_301() {
    use WebhookErrorKind::{TooNew, TooOld};
    let kind = |now| {
        let signed = standard().verify(&Head::signed(GOOD), BODY, now);
        signed.err().map(|error| error.kind())
    };
    let almost = Duration::from_nanos(999_999_999);
    for good in [
        time(AT - 300),
        time(AT),
        time(AT + 300),
        time(AT + 300) + almost,
    ] {
        assert_eq!(kind(good), None);
    }
    assert_eq!(kind(time(AT + 301)), Some(TooOld));
    assert_eq!(kind(time(AT - 301)), Some(TooNew));
    assert_eq!(kind(time(0)), Some(TooNew));
}

#[test]
fn a_body_is_bytes() {
    let secret = WebhookSecret::parse(SECRET).unwrap();
    let id = WebhookId::parse(ID).unwrap();
    for body in [&b""[..], b"\xff\xfe\0", b"not JSON", &vec![b'a'; 100_000]] {
        let fields = WebhookSigner::new(&secret).headers(&id, time(AT), body);
        let head = Head::new(fields);
        assert!(standard().verify(&head, body, time(AT)).is_ok());
        let more = [body, b"\n"].concat();
        assert!(standard().verify(&head, &more, time(AT)).is_err());
    }
}

#[test]
fn any_of_the_secrets_will_do_and_no_other() {
    let [one, two, three] = [0; 3].map(|_| WebhookSecret::random().unwrap());
    let id = WebhookId::random().unwrap();
    let verifier = WebhookVerifier::standard(one.expose_secret()).unwrap();
    let verifier = verifier.or(two.expose_secret()).unwrap();
    let accepts = |signer: WebhookSigner| {
        let head = Head::new(signer.headers(&id, time(AT), b"{}"));
        verifier.verify(&head, b"{}", time(AT)).is_ok()
    };
    assert!(accepts(WebhookSigner::new(&one)));
    assert!(accepts(WebhookSigner::new(&two)));
    assert!(!accepts(WebhookSigner::new(&three)));
    assert!(accepts(WebhookSigner::new(&three).and(&two)));
    let four = verifier.clone().or(SECRET).unwrap().or(SECRET).unwrap();
    assert!(four.or(SECRET).is_err());
}

#[test]
fn stripe_signs_time_and_body_with_the_text_of_its_secret() {
    use WebhookErrorKind::{BadSignature, Malformed, Missing, RepeatedHeader, TooOld};
    let verifier = WebhookVerifier::stripe(SECRET).unwrap();
    let at = AT.to_string();
    let key = MacKey::of_text(SECRET, &[]).unwrap();
    let good = hex(key.sign(&[at.as_bytes(), b".", BODY]));
    let old = hex(key.sign(&[b"1.", BODY]));
    let signed = |value: String| Head::new([("stripe-signature", value)]);
    #[rustfmt::skip]
    let table = [
        ("good", signed(format!("t={at},v1={good}")), None),
        ("in another order", signed(format!("v1={good},t={at}")), None),
        ("the valid one last", signed(format!("t={at},v1={old},v1=x,v0={old},v1={good}")), None),
        ("in upper case", signed(format!("t={at},v1={}", good.to_uppercase())), None),
        ("another version", signed(format!("t={at},v0={good}")), Some(BadSignature)),
        ("truncated", signed(format!("t={at},v1={}", &good[..62])), Some(BadSignature)),
        ("half a byte", signed(format!("t={at},v1={good}0")), Some(BadSignature)),
        ("empty signature", signed(format!("t={at},v1=")), Some(BadSignature)),
        ("no signature", signed(format!("t={at}")), Some(BadSignature)),
        ("no time", signed(format!("v1={good}")), Some(Missing)),
        ("two times", signed(format!("t={at},t={at},v1={good}")), Some(RepeatedHeader)),
        ("time that is none", signed(format!("t=x,v1={good}")), Some(Malformed)),
        ("old", signed(format!("t=1,v1={old}")), Some(TooOld)),
        ("another time", signed(format!("t={},v1={good}", AT + 1)), Some(BadSignature)),
        ("too many entries", signed(format!("t={at},v1={good}") + &",".repeat(31)), Some(Malformed)),
        ("empty", signed(String::new()), Some(Missing)),
        ("none", Head(vec![]), Some(Missing)),
        ("two lines", signed(format!("t={at},v1={good}")).twice("stripe-signature"), Some(RepeatedHeader)),
        ("a standard one", Head::signed(GOOD), Some(Missing)),
    ];
    for (about, head, expected) in table {
        let signed = verifier.verify(&head, BODY, time(AT));
        assert_eq!(signed.err().map(|error| error.kind()), expected, "{about}");
    }
}

#[test]
fn github_signs_the_body_alone() {
    use WebhookErrorKind::{BadSignature, Malformed, Missing, RepeatedHeader};
    // From GitHub's docs, "Testing the webhook payload validation".
    let verifier = WebhookVerifier::github(TEXT_SECRET).unwrap();
    let good = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let (field, id) = ("x-hub-signature-256", "x-github-delivery");
    let signed = |value: &str| Head::new([(field, value), (id, "72d3162e-cc78-11e3")]);
    #[rustfmt::skip]
    let table = [
        ("good", signed(good), None),
        ("without a name", signed(good).without(id), None),
        ("no scheme", signed(&good[7..]), Some(BadSignature)),
        ("the old scheme", signed(&good.replace("sha256", "sha1")), Some(BadSignature)),
        ("truncated", signed(&good[..40]), Some(BadSignature)),
        ("empty signature", signed("sha256="), Some(BadSignature)),
        ("empty", signed(""), Some(Missing)),
        ("none", signed(good).without(field), Some(Missing)),
        ("two lines", signed(good).twice(field), Some(RepeatedHeader)),
        ("two in one line", signed(&format!("{good},{good}")), Some(BadSignature)),
        ("two names", signed(good).twice(id), Some(RepeatedHeader)),
        ("a name that is none", signed(good).with(id, "a b"), Some(Malformed)),
    ];
    for (about, head, expected) in table {
        let signed = verifier.verify(&head, b"Hello, World!", time(AT));
        assert_eq!(signed.err().map(|error| error.kind()), expected, "{about}");
    }
    let head = signed(good);
    assert!(verifier.verify(&head, b"Hello, World?", time(AT)).is_err());
    let signed = verifier.verify(&head, b"Hello, World!", time(AT)).unwrap();
    assert_eq!(signed.id().unwrap().as_str(), "72d3162e-cc78-11e3");
    assert_eq!(signed.timestamp(), None);
}

#[test]
fn an_empty_secret_is_an_error_in_every_form() {
    for secret in ["", "whsec_", "fifteen bytes.."] {
        assert!(WebhookVerifier::standard(secret).is_err());
        assert!(WebhookVerifier::stripe(secret).is_err());
        assert!(WebhookVerifier::github(secret).is_err());
    }
}

/// Creates a receiver and its clock, which shows `AT`.
fn receiver(
    verifier: WebhookVerifier,
    change: impl FnOnce(WebhookReceiverBuilder) -> WebhookReceiverBuilder,
) -> (WebhookReceiver, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Duration::from_secs(AT)));
    let builder = WebhookReceiver::builder(verifier).clock(Arc::<ManualClock>::clone(&clock));
    (change(builder).build().unwrap(), clock)
}

/// The code of the answer, or the receipt of the delivery.
fn ask(receiver: &WebhookReceiver, head: &Head, body: &[u8]) -> Result<Receipt, WebhookAnswer> {
    let mut awaited = receiver.check(head)?;
    awaited.receive(body.len())?;
    match now_or_never(awaited.verify(body.to_vec())) {
        WebhookVerdict::Deliver(delivery) => {
            assert_eq!(delivery.event.body(), body);
            Ok(delivery.receipt)
        }
        WebhookVerdict::Answer(answer) => Err(answer),
    }
}

fn attempt(at: u64) -> Head {
    let secret = WebhookSecret::parse(SECRET).unwrap();
    let id = WebhookId::parse(ID).unwrap();
    Head::new(WebhookSigner::new(&secret).headers(&id, time(at), BODY))
}

#[test]
fn what_has_been_handled_is_not_handled_again() {
    let (receiver, clock) = receiver(standard(), |builder| builder);
    let status = |head: &Head| ask(&receiver, head, BODY).map_err(|answer| answer.reply.status());
    let receipt = status(&attempt(AT)).unwrap();
    assert_eq!(status(&attempt(AT)).unwrap_err(), 409, "in hand");
    assert_eq!(
        status(&attempt(AT + 1)).unwrap_err(),
        409,
        "in hand, a later attempt"
    );
    receipt.conclude(200);
    assert_eq!(status(&attempt(AT)).unwrap_err(), 409, "a replay");
    assert_eq!(
        status(&attempt(AT - 1)).unwrap_err(),
        409,
        "an earlier attempt"
    );
    assert_eq!(
        status(&attempt(AT + 1)).unwrap_err(),
        204,
        "a later attempt"
    );
    clock.advance(Duration::from_secs(300));
    assert_eq!(status(&attempt(AT)).unwrap_err(), 409);
    clock.advance(Duration::from_secs(1));
    assert_eq!(status(&attempt(AT)).unwrap_err(), 401);
}

#[test]
fn remembers_for_as_long_as_the_farthest_timestamp_is_good() {
    let (receiver, clock) = receiver(standard(), |builder| builder);
    let head = attempt(AT + 300);
    ask(&receiver, &head, BODY).unwrap().conclude(200);
    clock.advance(Duration::from_secs(600));
    let answer = ask(&receiver, &head, BODY).unwrap_err();
    assert_eq!(answer.error.unwrap().kind(), WebhookErrorKind::Replayed);
    clock.advance(Duration::from_secs(1));
    let answer = ask(&receiver, &head, BODY).unwrap_err();
    assert_eq!(answer.error.unwrap().kind(), WebhookErrorKind::TooOld);
}

#[test]
fn what_failed_or_was_given_up_may_come_again() {
    let (receiver, _) = receiver(standard(), |builder| builder);
    for status in [500, 503, 404, 302, 199] {
        ask(&receiver, &attempt(AT), BODY).unwrap().conclude(status);
    }
    drop(ask(&receiver, &attempt(AT), BODY).unwrap());
    ask(&receiver, &attempt(AT), BODY).unwrap().conclude(204);
    assert!(ask(&receiver, &attempt(AT), BODY).is_err());
}

#[test]
fn what_is_not_signed_is_not_remembered() {
    let (receiver, _) = receiver(standard(), |builder| builder.memory(RecentWebhooks::new(1)));
    for _ in 0..3 {
        assert!(ask(&receiver, &Head::signed(OTHER), BODY).is_err());
    }
    assert!(ask(&receiver, &Head::signed(GOOD), BODY).is_ok());
}

#[test]
fn a_full_memory_refuses_and_says_try_again() {
    let (receiver, _) = receiver(standard(), |builder| builder.memory(RecentWebhooks::new(0)));
    let answer = ask(&receiver, &attempt(AT), BODY).unwrap_err();
    assert_eq!(answer.reply.status(), 503);
    assert!(
        answer
            .reply
            .headers()
            .any(|field| field == ("retry-after", "1"))
    );
}

#[test]
fn a_name_that_is_not_signed_makes_no_replay_new() {
    let verifier = WebhookVerifier::github(TEXT_SECRET).unwrap();
    let (receiver, _) = receiver(verifier, |builder| builder);
    let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let head = |id| {
        Head::new([
            ("x-hub-signature-256", signature),
            ("x-github-delivery", id),
        ])
    };
    ask(&receiver, &head("one"), b"Hello, World!")
        .unwrap()
        .conclude(200);
    let answer = ask(&receiver, &head("two"), b"Hello, World!").unwrap_err();
    assert_eq!(answer.reply.status(), 409);
}

#[test]
fn the_body_has_a_limit_and_its_announced_length_too() {
    let (receiver, _) = receiver(standard(), |builder| builder.body_limit(BODY.len()));
    ask(&receiver, &Head::signed(GOOD), BODY)
        .unwrap()
        .conclude(200);
    let status = |head: &Head, body: &[u8]| ask(&receiver, head, body).unwrap_err().reply.status();
    assert_eq!(status(&Head::signed(GOOD), &[BODY, b" "].concat()), 413);
    for long in ["21", "99999999999999999999999999", " 21"] {
        let head = Head::signed(GOOD).with("content-length", long);
        assert_eq!(
            receiver.check(&head).unwrap_err().reply.status(),
            413,
            "{long}"
        );
    }
    let head = Head::signed(GOOD).with("content-length", "20");
    assert!(receiver.check(&head).is_ok());
}

#[test]
fn a_body_has_its_time_and_no_more() {
    let (receiver, clock) = receiver(standard(), |builder| {
        builder.body_timeout(Duration::from_secs(5))
    });
    let mut awaited = receiver.check(&Head::signed(GOOD)).unwrap();
    awaited.receive(BODY.len() - 1).unwrap();
    clock.advance(Duration::from_millis(4999));
    assert_eq!(awaited.time_left(), Duration::from_millis(1));
    awaited.receive(1).unwrap();
    clock.advance(Duration::from_millis(1));
    assert!(awaited.time_left().is_zero());
    for answer in [awaited.receive(0).unwrap_err(), awaited.too_slow()] {
        assert_eq!(answer.error.unwrap().kind(), WebhookErrorKind::TooSlow);
        assert_eq!(answer.reply.status(), 408);
    }
    let (receiver, _) = self::receiver(standard(), |builder| builder);
    let awaited = receiver.check(&Head::signed(GOOD)).unwrap();
    assert_eq!(
        awaited.time_left(),
        Duration::from_secs(10),
        "unless told otherwise"
    );
}

#[test]
fn the_bodies_that_are_under_way_have_a_limit_together() {
    let (receiver, _) = receiver(standard(), |builder| {
        builder.body_limit(100).total_body_limit(250)
    });
    let begin = |bytes| {
        let mut awaited = receiver.check(&Head::signed(GOOD)).unwrap();
        awaited.receive(bytes).map(|()| awaited)
    };
    let [one, mut two] = [begin(100).unwrap(), begin(99).unwrap()];
    let three = begin(51).unwrap();
    let answer = begin(1).unwrap_err();
    assert_eq!(answer.error.unwrap().kind(), WebhookErrorKind::Crowded);
    assert_eq!(answer.reply.status(), 503);
    assert!(
        answer
            .reply
            .headers()
            .any(|field| field == ("retry-after", "1"))
    );
    assert!(two.receive(1).is_err(), "also of one that has begun");
    drop(three); // given up
    two.receive(1).unwrap();
    let answer = two.receive(1).unwrap_err();
    assert_eq!(answer.reply.status(), 413, "its own limit comes first");
    let _verdict = now_or_never(one.verify(vec![b'x'; 100])); // decided
    drop(two);
    let all: Vec<_> = (0..2).map(|_| begin(100).unwrap()).collect();
    assert!(begin(51).is_err());
    drop(all);

    let (receiver, _) = self::receiver(standard(), |builder| builder.total_body_limit(0));
    assert!(
        ask(&receiver, &Head::signed(GOOD), BODY).is_ok(),
        "one body always fits"
    );
}

#[test]
fn demands_the_api_key_that_is_expected() {
    use WebhookErrorKind::{BadSignature, MissingKey, MultipleKeys, WrongKey};
    let key = "hk_5a8ac1b2c0ae4dd7";
    let next = "the next key: longer";
    let (receiver, _) = receiver(standard(), |builder| {
        let builder = builder.api_key(KeyLocation::x_api_key(), key).unwrap();
        builder.api_key(KeyLocation::bearer(), next).unwrap()
    });
    let signed = || Head::signed(GOOD);
    let (x, bearer) = ("x-api-key", |key| format!("Bearer {key}"));
    #[rustfmt::skip]
    let table = [
        (signed(), 401, MissingKey),
        (signed().with(x, ""), 401, MissingKey),
        (signed().with(x, &key[1..]), 401, WrongKey),
        (signed().with(x, "hk_5a8ac1b2c0ae4dd8"), 401, WrongKey),
        (signed().with(x, next), 401, WrongKey),
        (signed().with("authorization", bearer(key)), 401, WrongKey),
        (signed().with(x, key).twice(x), 400, MultipleKeys),
        (signed().with(x, key).with("authorization", bearer(next)), 400, MultipleKeys),
        // With the key, the signature still counts.
        (Head::signed(OTHER).with(x, key), 401, BadSignature),
    ];
    for (head, status, kind) in table {
        let answer = ask(&receiver, &head, BODY).unwrap_err();
        assert_eq!(answer.error.unwrap().kind(), kind);
        assert_eq!(answer.reply.status(), status);
        let challenges = answer
            .reply
            .headers()
            .filter(|(name, _)| *name == "www-authenticate");
        let schemes = challenges.map(|(_, challenge)| challenge.split(' ').next().unwrap());
        let expected: &[_] = match kind {
            BadSignature => &["WebhookSignature"],
            _ => &["ApiKey", "Bearer"],
        };
        assert!(schemes.eq(expected.iter().copied()));
    }
    let removes = |head: &Head| match now_or_never(receiver.check(head).unwrap().verify(BODY)) {
        WebhookVerdict::Deliver(delivery) => delivery.key_header,
        WebhookVerdict::Answer(answer) => panic!("{answer:?}"),
    };
    assert_eq!(removes(&signed().with(x, key)), KeyHeaderAction::Remove(0));
    let other = signed().with("authorization", bearer(next));
    assert_eq!(removes(&other), KeyHeaderAction::Remove(1));
    let unset = WebhookReceiver::builder(standard()).api_key(KeyLocation::bearer(), "");
    assert_eq!(unset.unwrap_err().kind(), ParseErrorKind::Empty);
}

proptest! {
    #[test]
    fn reads_any_fields_without_panic(
        id in proptest::collection::vec(any::<u8>(), 0..20),
        at in "[0-9+. -]{0,24}|[0-9]{1,21}",
        list in "(v1,|v1a,|t=|v1=|sha256=|[A-Za-z0-9+/=, ]){0,40}",
    ) {
        let head = Head::new([
            ("webhook-id", &id[..]),
            ("webhook-timestamp", at.as_bytes()),
            ("webhook-signature", list.as_bytes()),
            ("svix-signature", list.as_bytes()),
            ("stripe-signature", list.as_bytes()),
            ("x-hub-signature-256", list.as_bytes()),
        ]);
        for verifier in [
            standard(),
            WebhookVerifier::stripe(TEXT_SECRET).unwrap(),
            WebhookVerifier::github(TEXT_SECRET).unwrap(),
        ] {
            prop_assert!(verifier.verify(&head, &id, time(AT)).is_err());
        }
    }

    #[test]
    fn what_is_signed_is_verified_and_nothing_else(
        body in proptest::collection::vec(any::<u8>(), 0..200),
        id in "[!-\\-/-~]{1,128}",
        flip in any::<usize>(),
        at in 0..u64::from(u32::MAX),
    ) {
        let id = WebhookId::parse(&id).unwrap();
        let [one, two] = [0; 2].map(|_| WebhookSecret::random().unwrap());
        let fields = WebhookSigner::new(&one).and(&two).headers(&id, time(at), &body);
        for secret in [&one, &two] {
            let verifier = WebhookVerifier::standard(secret.expose_secret()).unwrap();
            let head = Head::new(fields.clone());
            let signed = verifier.verify(&head, &body, time(at)).unwrap();
            prop_assert_eq!(signed.id(), Some(&id));
            let mut other = body.clone();
            other.push(0);
            let place = flip % other.len();
            other[place] ^= 1;
            prop_assert!(verifier.verify(&head, &other, time(at)).is_err());
        }
    }
}
