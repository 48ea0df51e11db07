//! One table of requests through every stack: the same status, the same fields, the same body.

use std::sync::Arc;
use std::time::Duration;

use keyward::Cors;

use crate::service::Service;
use crate::stacks::{Answer, Ask, PROTOCOL, everywhere};

/// A row: what it is about, the request, the status, and the code (or the whole body where it is
/// not the default shape, or what the handler says of the caller).
struct Row {
    about: &'static str,
    ask: Ask,
    status: u16,
    says: &'static str,
}

/// A row as it is written: what it is about, method and path, fields, status, what is said.
type Written = (
    &'static str,
    &'static str,
    &'static [Line],
    u16,
    &'static str,
);

/// The part of a request that a row adds: a field and its value, in which `{name}` stands for a key.
type Line = (&'static str, &'static str);

const X: &str = "x-api-key";
const A: &str = "authorization";
const C: &str = "x-client-key";
const O: &str = "origin";
const F: &str = "x-forwarded-for";
const JWT: &str = "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2ln";
const SEES: &str = "anonymous; sees [\"authorization\"]";
const BOTH: &str = r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"Send either the API key or the other credential: the request holds both.","code":"multiple_api_keys"}"#;
const ACME: &str = "acme live Secret {}; sees []";

#[rustfmt::skip]
fn rows(service: &Service) -> Vec<Row> {
    let table: &[Written] = &[
        // A good key, in every place it may travel.
        ("live key in its own field", "GET /live", &[(X, "{live}")], 200, ACME),
        ("live key as bearer", "GET /live", &[(A, "Bearer {live}")], 200, ACME),
        ("scheme in lower case", "GET /live", &[(A, "bearer {live}")], 200, ACME),
        ("scheme in upper case", "GET /live", &[(A, "BEARER {live}")], 200, ACME),
        ("several spaces after the scheme", "GET /live", &[(A, "Bearer    {live}")], 200, ACME),
        ("spaces around the value", "GET /live", &[(X, "  {live} ")], 200, ACME),
        ("tabs around the value", "GET /live", &[(X, "\t{live}\t")], 200, ACME),
        ("empty field beside a bearer key", "GET /live", &[(X, ""), (A, "Bearer {live}")], 200, "acme live Secret {}; sees [\"x-api-key\"]"),
        ("another scheme beside the key", "GET /live", &[(X, "{live}"), (A, "Basic dTpw")], 200, "acme live Secret {}; sees [\"authorization\"]"),
        ("POST", "POST /live", &[(X, "{live}")], 200, ACME),
        ("DELETE", "DELETE /live", &[(X, "{live}")], 200, ACME),
        ("HEAD", "HEAD /live", &[(X, "{live}")], 200, ACME),
        ("key that expires in a second", "GET /live", &[(X, "{expiring}")], 200, ACME),
        // No key (row 30).
        ("no key", "GET /live", &[], 401, "missing_api_key"),
        ("no key on a publishable route", "GET /widget", &[], 401, "missing_api_key"),
        ("no key where either kind may", "GET /both-kinds", &[], 401, "missing_api_key"),
        ("no key, HEAD", "HEAD /live", &[], 401, "missing_api_key"),
        ("empty value", "GET /live", &[(X, "")], 401, "missing_api_key"),
        ("spaces only", "GET /live", &[(X, "   ")], 401, "missing_api_key"),
        ("a tab only", "GET /live", &[(X, "\t")], 401, "missing_api_key"),
        ("scheme without a key", "GET /live", &[(A, "Bearer")], 401, "missing_api_key"),
        ("scheme and spaces", "GET /live", &[(A, "Bearer   ")], 401, "missing_api_key"),
        ("unknown scheme", "GET /live", &[(A, "Basic dTpw")], 401, "missing_api_key"),
        ("key in an unknown scheme", "GET /live", &[(A, "Token {live}")], 401, "missing_api_key"),
        ("tab after the scheme", "GET /live", &[(A, "Bearer\t{live}")], 401, "missing_api_key"),
        ("raw key where a scheme is needed", "GET /live", &[(A, "{live}")], 401, "missing_api_key"),
        ("key in a cookie", "GET /live", &[("cookie", "api_key={live}")], 401, "missing_api_key"),
        ("key in a field that is not configured", "GET /live", &[("x-helios-key", "{live}")], 401, "missing_api_key"),
        // More than one key (row 31).
        ("the same key twice in a field", "GET /live", &[(X, "{live}"), (X, "{live}")], 400, "multiple_api_keys"),
        ("an empty line and a key", "GET /live", &[(X, ""), (X, "{live}")], 400, "multiple_api_keys"),
        ("two keys in two places", "GET /live", &[(X, "{live}"), (A, "Bearer {test}")], 400, "multiple_api_keys"),
        ("the same key in two places", "GET /live", &[(X, "{live}"), (A, "Bearer {live}")], 400, "multiple_api_keys"),
        ("a JWT beside the key", "GET /live", &[(X, "{live}"), (A, "Bearer eyJhbGciOiJub25lIn0.e30.")], 400, "multiple_api_keys"),
        ("two authorization lines", "GET /live", &[(A, "Bearer {live}"), (A, "Bearer {live}")], 400, "multiple_api_keys"),
        ("two authorization lines, one of another scheme", "GET /live", &[(A, "Basic dTpw"), (A, "Bearer {live}")], 400, "multiple_api_keys"),
        ("a comma-joined pair", "GET /live", &[(X, "{live}, {live}")], 400, "multiple_api_keys"),
        ("a comma-joined pair of schemes", "GET /live", &[(A, "Bearer {live}, Bearer {live}")], 400, "multiple_api_keys"),
        ("another scheme joined with the key", "GET /live", &[(A, "Basic dTpw, Bearer {live}")], 400, "multiple_api_keys"),
        ("the key joined with another scheme", "GET /live", &[(A, "Bearer {live}, Basic dTpw")], 400, "multiple_api_keys"),
        ("two schemes, none of them ours", "GET /live", &[(A, "Basic dTpw, Negotiate x")], 401, "missing_api_key"),
        ("a list of parameters", "GET /live", &[(A, "Digest username=\"a, Bearer b\", nc=1")], 401, "missing_api_key"),
        ("publishable and secret key", "GET /live", &[(X, "{live}"), (C, "{publishable}")], 400, "multiple_api_keys"),
        // Malformed (row 32).
        ("a word", "GET /live", &[(X, "secret")], 401, "invalid_api_key"),
        ("one flipped character", "GET /live", &[(X, "{live^}")], 401, "invalid_api_key"),
        ("test key edited to live", "GET /live", &[(X, "{test>live}")], 401, "invalid_api_key"),
        ("key of another product", "GET /live", &[(X, "{another product}")], 401, "invalid_api_key"),
        ("a key and a blank and a word", "GET /live", &[(X, "{live} x")], 401, "invalid_api_key"),
        ("a tab before the key, after the scheme's space", "GET /live", &[(A, "Bearer \t{live}")], 401, "invalid_api_key"),
        ("bytes above 0x7F", "GET /live", &[(X, "vhk_live_\u{e9}\u{ff}")], 401, "invalid_api_key"),
        ("60 kB", "GET /live", &[(X, "{60k}")], 401, "invalid_api_key"),
        ("a scheme in a field of its own", "GET /live", &[(X, "Bearer {live}")], 401, "invalid_api_key"),
        ("the scheme twice", "GET /live", &[(A, "Bearer Bearer {live}")], 401, "invalid_api_key"),
        ("a key in angle brackets", "GET /live", &[(A, "Bearer <{live}>")], 401, "invalid_api_key"),
        ("quoted key", "GET /live", &[(X, "\"{live}\"")], 401, "invalid_api_key"),
        // Unavailable (row 40).
        ("memory too old", "GET /stale", &[(X, "{live}")], 503, "auth_unavailable"),
        ("memory too old, no key", "GET /stale", &[], 401, "missing_api_key"),
        ("memory too old, malformed key", "GET /stale", &[(X, "x")], 401, "invalid_api_key"),
        // Unknown or dead (rows 41 to 50).
        ("unknown key", "GET /live", &[(X, "{unknown}")], 401, "invalid_api_key"),
        ("key of another account than the route's", "GET /acme", &[(X, "{other}")], 401, "invalid_api_key"),
        ("key of the route's account", "GET /acme", &[(X, "{live}")], 200, ACME),
        ("revoked key", "GET /live", &[(X, "{revoked}")], 401, "invalid_api_key"),
        ("key revoked with all others", "GET /live", &[(X, "{swept}")], 401, "invalid_api_key"),
        ("disabled key", "GET /live", &[(X, "{disabled}")], 401, "invalid_api_key"),
        ("expired key", "GET /live", &[(X, "{expired}")], 401, "invalid_api_key"),
        ("revoked key, told apart", "GET /apart", &[(X, "{revoked}")], 401, "revoked_api_key"),
        ("disabled key, told apart", "GET /apart", &[(X, "{disabled}")], 401, "disabled_api_key"),
        ("expired key, told apart", "GET /apart", &[(X, "{expired}")], 401, "expired_api_key"),
        ("unknown key, told apart", "GET /apart", &[(X, "{unknown}")], 401, "invalid_api_key"),
        // Account and environment (rows 60 and 61).
        ("suspended account", "GET /live", &[(X, "{suspended}")], 403, "account_inactive"),
        ("test key on a live route", "GET /live", &[(X, "{test}")], 401, "environment_mismatch"),
        ("live key on a test route", "GET /test", &[(X, "{live}")], 401, "environment_mismatch"),
        ("staging key on a live route", "GET /live", &[(X, "{staging}")], 401, "environment_mismatch"),
        ("test key on a test route", "GET /test", &[(X, "{test}")], 200, "acme test Secret {}; sees []"),
        ("staging key on a route of two environments", "GET /staging", &[(X, "{staging}")], 200, "acme staging Secret {}; sees []"),
        ("live key on a route of two others", "GET /staging", &[(X, "{live}")], 401, "environment_mismatch"),
        ("test key on a route of any environment", "GET /any", &[(X, "{test}")], 200, "acme test Secret {}; sees []"),
        // Kind, place, plan (row 62).
        ("publishable key in its field", "GET /widget", &[(C, "{publishable}")], 200, "acme live Publishable {}; sees []"),
        ("publishable key in its scheme", "GET /widget", &[(A, "ClientKey {publishable}")], 200, "acme live Publishable {}; sees []"),
        ("publishable key in a secret place", "GET /widget", &[(X, "{publishable}")], 403, "key_not_allowed"),
        ("publishable key in a secret place on a secret route", "GET /live", &[(X, "{publishable}")], 403, "key_not_allowed"),
        ("publishable key in a secret place, either kind", "GET /both-kinds", &[(A, "Bearer {publishable}")], 403, "key_not_allowed"),
        ("secret key in a publishable place on a publishable route", "GET /widget", &[(C, "{live}")], 403, "key_not_allowed"),
        ("publishable key on a secret route", "GET /live", &[(C, "{publishable}")], 403, "key_not_allowed"),
        ("secret key in a publishable place", "GET /both-kinds", &[(C, "{live}")], 403, "key_not_allowed"),
        ("secret key on a publishable route", "GET /widget", &[(X, "{live}")], 403, "key_not_allowed"),
        ("either kind, secret", "GET /both-kinds", &[(X, "{live}")], 200, ACME),
        ("either kind, publishable", "GET /both-kinds", &[(C, "{publishable}")], 200, "acme live Publishable {}; sees []"),
        ("plan without the API", "GET /live", &[(X, "{free}")], 403, "key_not_allowed"),
        // Origin (rows 70 and 71).
        ("listed origin", "GET /live", &[(X, "{shop}"), (O, "https://shop.example")], 200, ACME),
        ("no origin", "GET /live", &[(X, "{shop}")], 403, "origin_required"),
        ("no origin, servers allowed", "GET /live", &[(X, "{shop or server}")], 200, ACME),
        ("wrong origin, servers allowed", "GET /live", &[(X, "{shop or server}"), (O, "https://evil.example")], 403, "origin_not_allowed"),
        ("two origins", "GET /live", &[(X, "{shop}"), (O, "https://shop.example"), (O, "https://shop.example")], 403, "origin_not_allowed"),
        ("null origin", "GET /live", &[(X, "{shop}"), (O, "null")], 403, "origin_not_allowed"),
        ("empty origin", "GET /live", &[(X, "{shop}"), (O, "")], 403, "origin_not_allowed"),
        ("upper-case host", "GET /live", &[(X, "{shop}"), (O, "https://SHOP.example")], 403, "origin_not_allowed"),
        ("default port written out", "GET /live", &[(X, "{shop}"), (O, "https://shop.example:443")], 403, "origin_not_allowed"),
        ("another port", "GET /live", &[(X, "{shop}"), (O, "https://shop.example:8443")], 403, "origin_not_allowed"),
        ("userinfo", "GET /live", &[(X, "{shop}"), (O, "https://u@shop.example")], 403, "origin_not_allowed"),
        ("a path", "GET /live", &[(X, "{shop}"), (O, "https://shop.example/")], 403, "origin_not_allowed"),
        ("trailing dot", "GET /live", &[(X, "{shop}"), (O, "https://shop.example.")], 403, "origin_not_allowed"),
        ("http for https", "GET /live", &[(X, "{shop}"), (O, "http://shop.example")], 403, "origin_not_allowed"),
        ("referer is no origin", "GET /live", &[(X, "{shop}"), ("referer", "https://shop.example/")], 403, "origin_required"),
        ("look-alike before", "GET /live", &[(X, "{subdomains}"), (O, "https://evil-shop.example")], 403, "origin_not_allowed"),
        ("look-alike behind", "GET /live", &[(X, "{subdomains}"), (O, "https://a.shop.example.evil.io")], 403, "origin_not_allowed"),
        ("apex against a subdomain pattern", "GET /live", &[(X, "{subdomains}"), (O, "https://shop.example")], 403, "origin_not_allowed"),
        ("subdomain", "GET /live", &[(X, "{subdomains}"), (O, "https://a.b.shop.example")], 200, ACME),
        ("subdomain with an empty label", "GET /live", &[(X, "{subdomains}"), (O, "https://.shop.example")], 403, "origin_not_allowed"),
        ("any port", "GET /live", &[(X, "{ports}"), (O, "http://localhost:5173")], 200, ACME),
        ("any port, default written out", "GET /live", &[(X, "{ports}"), (O, "http://localhost:80")], 403, "origin_not_allowed"),
        ("IDNA in punycode", "GET /live", &[(X, "{idna}"), (O, "https://xn--bcher-kva.example")], 200, ACME),
        ("IDNA in bytes", "GET /live", &[(X, "{idna}"), (O, "https://b\u{fc}cher.example")], 403, "origin_not_allowed"),
        ("any origin without a list", "GET /live", &[(X, "{live}"), (O, "null")], 200, ACME),
        // Client address, behind a trusted proxy.
        ("listed address", "GET /live", &[(X, "{office}"), (F, "203.0.113.7")], 200, ACME),
        ("address in a listed network", "GET /live", &[(X, "{office}"), (F, "198.51.100.200")], 200, ACME),
        ("listed address in IPv4-mapped form", "GET /live", &[(X, "{office}"), (F, "::ffff:203.0.113.7")], 200, ACME),
        ("listed IPv6 address", "GET /live", &[(X, "{office}"), (F, "[2001:db8::7]:4711")], 200, ACME),
        ("IPv6 address in the same /64", "GET /live", &[(X, "{office}"), (F, "2001:db8::8")], 403, "address_not_allowed"),
        ("another address", "GET /live", &[(X, "{office}"), (F, "203.0.113.8")], 403, "address_not_allowed"),
        ("a forged address before that of the proxy", "GET /live", &[(X, "{office}"), (F, "203.0.113.7, 192.0.2.1")], 403, "address_not_allowed"),
        ("a forged line before that of the proxy", "GET /live", &[(X, "{office}"), (F, "203.0.113.7"), (F, "192.0.2.1")], 403, "address_not_allowed"),
        ("the address before a chain of proxies", "GET /live", &[(X, "{office}"), (F, "192.0.2.1, 203.0.113.7, 10.0.0.1")], 200, ACME),
        ("a proxy that tells no address", "GET /live", &[(X, "{office}")], 403, "address_not_allowed"),
        ("another header with an address", "GET /live", &[(X, "{office}"), ("forwarded", "for=203.0.113.7"), ("x-real-ip", "203.0.113.7")], 403, "address_not_allowed"),
        ("wrong origin and wrong address", "GET /live", &[(X, "{office page}"), (O, "https://evil.example"), (F, "192.0.2.1")], 403, "origin_not_allowed"),
        ("wrong address and missing scope", "GET /kyc", &[(X, "{office}"), (F, "192.0.2.1")], 403, "address_not_allowed"),
        ("listed address and missing scope", "GET /kyc", &[(X, "{office}"), (F, "203.0.113.7")], 403, "insufficient_scope"),
        ("wrong address in the service's own words", "GET /own", &[(X, "{office}"), (F, "192.0.2.1")], 403, r#"{"error":"The API key may not be used from this network address. Add the address to the key's allowlist, or send the request from one that is on it."}"#),
        // Scopes (row 80).
        ("scope held", "GET /kyc", &[(X, "{kyc}")], 200, "acme live Secret {\"kyc\"}; sees []"),
        ("scope missing", "GET /kyc", &[(X, "{reports}")], 403, "insufficient_scope"),
        ("no scopes at all", "GET /kyc", &[(X, "{live}")], 403, "insufficient_scope"),
        ("scope implied", "GET /kyc", &[(X, "{hybrid}")], 200, "acme live Secret {\"hybrid\"}; sees []"),
        ("scope by wildcard", "GET /reports", &[(X, "{reports}")], 200, "acme live Secret {\"reports.*\"}; sees []"),
        ("one of two scopes where both are needed", "GET /both", &[(X, "{kyc}")], 403, "insufficient_scope"),
        ("both scopes implied", "GET /both", &[(X, "{hybrid}")], 200, "acme live Secret {\"hybrid\"}; sees []"),
        ("one of two scopes where one is enough", "GET /either", &[(X, "{kyc}")], 200, "acme live Secret {\"kyc\"}; sees []"),
        ("none of two scopes", "GET /either", &[(X, "{reports}")], 403, "insufficient_scope"),
        // Preflight and other OPTIONS (rows 10 and 11).
        ("preflight", "OPTIONS /live", &[(O, "https://shop.example"), ("access-control-request-method", "PUT")], 204, ""),
        ("preflight with a bad key", "OPTIONS /kyc", &[(O, "null"), ("access-control-request-method", "PUT"), (X, "x")], 204, ""),
        ("OPTIONS without an origin", "OPTIONS /live", &[("access-control-request-method", "PUT")], 401, "missing_api_key"),
        ("OPTIONS without a method", "OPTIONS /live", &[(O, "https://shop.example")], 401, "missing_api_key"),
        ("OPTIONS with a key", "OPTIONS /live", &[(X, "{live}")], 200, ACME),
        ("the preflight fields on a GET", "GET /live", &[(O, "https://a.example"), ("access-control-request-method", "PUT")], 401, "missing_api_key"),
        // Optional keys.
        ("optional, none", "GET /optional", &[], 200, "anonymous; sees []"),
        ("optional, another scheme", "GET /optional", &[(A, "Basic dTpw")], 200, "anonymous; sees [\"authorization\"]"),
        ("optional, a good one", "GET /optional", &[(X, "{live}")], 200, ACME),
        ("optional, an empty one", "GET /optional", &[(X, "")], 401, "missing_api_key"),
        ("optional, a wrong one", "GET /optional", &[(X, "nonsense")], 401, "invalid_api_key"),
        ("optional, a revoked one", "GET /optional", &[(X, "{revoked}")], 401, "invalid_api_key"),
        ("optional, a key without its scheme", "GET /optional", &[(A, "{live}")], 401, "missing_api_key"),
        ("optional, a tab after the scheme", "GET /optional", &[(A, "Bearer\t{live}")], 401, "missing_api_key"),
        ("optional, a colon after the scheme", "GET /optional", &[(A, "Bearer:{live}")], 401, "missing_api_key"),
        ("optional, another scheme joined with the key", "GET /optional", &[(A, "Basic dTpw, Bearer {live}")], 400, "multiple_api_keys"),
        ("optional, two", "GET /optional", &[(X, "{live}"), (A, "Bearer {live}")], 400, "multiple_api_keys"),
        // Other credentials in place of a key.
        ("or other, none", "GET /or-other", &[], 401, "missing_api_key"),
        ("or other, a cookie alone", "GET /or-other", &[("cookie", "id=1")], 401, "missing_api_key"),
        ("or other, a JWT", "GET /or-other", &[(A, JWT)], 200, SEES),
        ("or other, a JWT, HEAD", "HEAD /or-other", &[(A, JWT)], 200, SEES),
        ("or other, a JWT after several spaces", "GET /or-other", &[(A, "Bearer    a.b.c")], 200, SEES),
        ("or other, a scheme in upper case", "GET /or-other", &[(A, "BEARER a.b.c")], 200, SEES),
        ("or other, a password", "GET /or-other", &[(A, "Basic dTpw")], 200, SEES),
        ("or other, a list of parameters", "GET /or-other", &[(A, "Digest username=\"a, Bearer b\", nc=1")], 200, SEES),
        ("or other, a key", "GET /or-other", &[(X, "{live}")], 200, ACME),
        ("or other, a key as bearer", "GET /or-other", &[(A, "Bearer {live}")], 200, ACME),
        ("or other, a key and a JWT", "GET /or-other", &[(X, "{live}"), (A, JWT)], 400, BOTH),
        ("or other, a JWT and a key", "GET /or-other", &[(A, JWT), (X, "{live}")], 400, BOTH),
        ("or other, a key and a password", "GET /or-other", &[(X, "{live}"), (A, "Basic dTpw")], 400, BOTH),
        ("or other, a key and an empty line", "GET /or-other", &[(X, "{live}"), (A, "")], 400, BOTH),
        ("or other, two JWTs", "GET /or-other", &[(A, JWT), (A, JWT)], 400, "multiple_api_keys"),
        ("or other, a JWT and a key in two lines", "GET /or-other", &[(A, JWT), (A, "Bearer {live}")], 400, "multiple_api_keys"),
        ("or other, a JWT joined with a key", "GET /or-other", &[(A, "Bearer a.b.c, Bearer {live}")], 400, "multiple_api_keys"),
        ("or other, two JWTs joined", "GET /or-other", &[(A, "Bearer a.b.c, Bearer a.b.c")], 400, "multiple_api_keys"),
        ("or other, two schemes joined", "GET /or-other", &[(A, "Basic dTpw, Negotiate x")], 401, "missing_api_key"),
        ("or other, a mistyped key", "GET /or-other", &[(A, "Bearer {live^}")], 401, "invalid_api_key"),
        ("or other, a revoked key", "GET /or-other", &[(A, "Bearer {revoked}")], 401, "invalid_api_key"),
        ("or other, an unknown key", "GET /or-other", &[(A, "Bearer {unknown}")], 401, "invalid_api_key"),
        ("or other, a quoted key", "GET /or-other", &[(A, "Bearer \"{live}\"")], 401, "invalid_api_key"),
        ("or other, the scheme twice", "GET /or-other", &[(A, "Bearer Bearer {live}")], 401, "invalid_api_key"),
        ("or other, a key in an unknown scheme", "GET /or-other", &[(A, "Token {live}")], 401, "missing_api_key"),
        ("or other, a word in a scheme of keys", "GET /or-other", &[(A, "ClientKey nonsense")], 401, "invalid_api_key"),
        ("or other, a scheme alone", "GET /or-other", &[(A, "Bearer")], 401, "missing_api_key"),
        ("or other, a scheme and spaces", "GET /or-other", &[(A, "Bearer   ")], 401, "missing_api_key"),
        ("or other, an empty line", "GET /or-other", &[(A, "")], 401, "missing_api_key"),
        ("or other, a JWT without a scheme", "GET /or-other", &[(A, "a.b.c")], 401, "missing_api_key"),
        ("or other, a tab after the scheme", "GET /or-other", &[(A, "Bearer\ta.b.c")], 401, "missing_api_key"),
        ("or other, a quoted JWT", "GET /or-other", &[(A, "Bearer \"a.b.c\"")], 401, "invalid_api_key"),
        ("or other, preflight", "OPTIONS /or-other", &[(O, "https://shop.example"), ("access-control-request-method", "PUT")], 204, ""),
        ("or nothing, none", "GET /or-nothing", &[], 200, "anonymous; sees []"),
        ("or nothing, a JWT", "GET /or-nothing", &[(A, JWT)], 200, SEES),
        ("or nothing, a key of another environment", "GET /or-nothing", &[(X, "{test}")], 200, "acme test Secret {}; sees []"),
        ("or nothing, a revoked key", "GET /or-nothing", &[(X, "{revoked}")], 401, "invalid_api_key"),
        ("or nothing, a key in an unknown scheme", "GET /or-nothing", &[(A, "Token {live}")], 401, "missing_api_key"),
        ("or nothing, two schemes joined", "GET /or-nothing", &[(A, "Basic dTpw, Negotiate x")], 401, "missing_api_key"),
        ("or nothing, an empty key field and a JWT", "GET /or-nothing", &[(X, ""), (A, JWT)], 401, "missing_api_key"),
        // Other credentials beside a key.
        ("beside, none", "GET /beside", &[], 401, "missing_api_key"),
        ("beside, a JWT alone", "GET /beside", &[(A, JWT)], 401, "missing_api_key"),
        ("beside, a key alone", "GET /beside", &[(X, "{live}")], 200, ACME),
        ("beside, a key and a JWT", "GET /beside", &[(X, "{live}"), (A, JWT)], 200, "acme live Secret {}; sees [\"authorization\"]"),
        ("beside, a wrong key and a JWT", "GET /beside", &[(X, "{live^}"), (A, JWT)], 401, "invalid_api_key"),
        ("beside, a key and two schemes joined", "GET /beside", &[(X, "{live}"), (A, "Basic dTpw, Negotiate x")], 400, BOTH),
        ("beside, two keys", "GET /beside", &[(X, "{live}"), (A, "Bearer {live}")], 400, "multiple_api_keys"),
        // Other shapes, locations and formats.
        ("own text, invalid", "GET /own", &[(X, "{revoked}")], 401, r#"{"error":"Invalid API key"}"#),
        ("own text, environment", "GET /own", &[(X, "{test}")], 401, r#"{"error":"Environment mismatch"}"#),
        ("own text, scope", "GET /own", &[(X, "{live}")], 403, r#"{"error":"Scope does not allow this product"}"#),
        ("own text, origin", "GET /own", &[(X, "{shop}"), (O, "null")], 403, r#"{"error":"Origin not allowed for this key"}"#),
        ("raw authorization", "GET /cs", &[(A, "{cs}")], 200, ACME),
        ("raw authorization, with a scheme", "GET /cs", &[(A, "Bearer {cs}")], 401, r#"{"detail":"Invalid user credentials"}"#),
        ("raw authorization, two", "GET /cs", &[(A, "{cs}, {cs}")], 400, r#"{"detail":"Send exactly one API key, once and in one place: the request holds several."}"#),
        ("raw authorization, another scheme joined with it", "GET /cs", &[(A, "Basic dTpw, {cs}")], 400, r#"{"detail":"Send exactly one API key, once and in one place: the request holds several."}"#),
        ("raw authorization, a word behind the key", "GET /cs", &[(A, "{cs} x")], 401, r#"{"detail":"Invalid user credentials"}"#),
        ("raw authorization, wrong", "GET /cs", &[(A, "cs_wrong")], 401, r#"{"detail":"Invalid user credentials"}"#),
        ("raw authorization, in another field", "GET /cs", &[(X, "{cs}")], 401, r#"{"detail":"Invalid user credentials"}"#),
        ("own field", "GET /sk", &[("x-helios-key", "{sk}")], 200, ACME),
        ("own field, missing", "GET /sk", &[], 401, r#"{"error":"Unauthorized","message":"Invalid or missing API key"}"#),
        ("own field, key of another format", "GET /sk", &[("x-helios-key", "{live}")], 401, r#"{"error":"Unauthorized","message":"Invalid or missing API key"}"#),
    ];
    let row = |(about, target, lines, status, says): &Written| {
        let (method, path) = target.split_once(' ').unwrap();
        let method = ["GET", "POST", "DELETE", "HEAD", "OPTIONS"].into_iter().find(|m| *m == method).unwrap();
        let fields = lines.iter().map(|(name, value)| (*name, fill(service, value))).collect();
        let ask = Ask { method, path: path.to_owned(), fields };
        Row { about, ask, status: *status, says }
    };
    table.iter().map(row).collect()
}

/// Puts keys in the place of their names: `{live}` whole, `{live^}` with a character flipped,
/// `{test>live}` with its environment edited.
fn fill(service: &Service, value: &str) -> Vec<u8> {
    let mut text = value.replace("{60k}", &"a".repeat(60_000));
    for (name, key) in &service.keys {
        text = text.replace(&format!("{{{name}}}"), key);
        let flipped = format!("{}{}", &key[..20], key[20..].replacen(&key[20..21], "-", 1));
        text = text.replace(&format!("{{{name}^}}"), &flipped);
        text = text.replace(
            &format!("{{{name}>live}}"),
            &key.replace("_test_", "_live_"),
        );
    }
    // One byte for each character, as old servers send them.
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).unwrap())
        .collect()
}

#[test]
fn every_stack_answers_every_row_alike_and_as_the_table_says() {
    let service = Arc::new(Service::new());
    let rows = rows(&service);
    let asks: Vec<_> = rows.iter().map(|row| row.ask.clone()).collect();
    let answers = everywhere(&service, &asks);
    assert!(rows.len() >= 80);
    for (row, answer) in rows.iter().zip(&answers) {
        let about = row.about;
        assert_eq!(answer.status, row.status, "{about}: {answer:?}");
        match answer.status {
            _ if row.ask.method == "HEAD" => {}
            200 => assert_eq!(answer.body, row.says, "{about}"),
            _ if row.says.starts_with('{') => assert_eq!(answer.body, row.says, "{about}"),
            204 => assert_eq!(answer.body, "", "{about}"),
            _ => assert_code(row, answer),
        }
        assert_fields(row, answer);
        for key in service.keys.values() {
            assert!(
                !format!("{answer:?}").contains(&**key),
                "{about}: the answer holds a key"
            );
        }
    }
}

fn assert_code(row: &Row, answer: &Answer) {
    let (about, body) = (row.about, &answer.body);
    assert!(
        body.ends_with(&format!(r#","code":"{}"}}"#, row.says)),
        "{about}: {body}"
    );
    assert!(
        body.contains(&format!(r#""status":{},"#, row.status)),
        "{about}: {body}"
    );
    assert_eq!(
        answer.fields["content-type"],
        ["application/problem+json"],
        "{about}"
    );
}

/// What holds for the fields of every answer.
fn assert_fields(row: &Row, answer: &Answer) {
    let about = row.about;
    let field = |name: &str| {
        answer
            .fields
            .get(name)
            .map_or(&[][..], |values| &values[..])
    };
    if answer.status == 200 {
        let other = row.ask.path.starts_with("/or-");
        let passed = !row.says.starts_with("anonymous") || other;
        let expected: &[&str] = if passed { &["private"] } else { &[] };
        assert_eq!(field("cache-control"), expected, "{about}");
        let optional = row.ask.path == "/optional" || other;
        let locations = "x-api-key, authorization, x-client-key";
        let expected: &[&str] = if optional { &[locations] } else { &[] };
        assert_eq!(field("vary"), expected, "{about}");
        assert!(field("www-authenticate").is_empty(), "{about}");
        return;
    }
    assert_eq!(field("cache-control"), ["no-store"], "{about}");
    let challenges = field("www-authenticate");
    let schemes: Vec<_> = challenges
        .iter()
        .filter_map(|line| line.split(' ').next())
        .collect();
    let expected: &[&str] = match (answer.status, row.says) {
        (401 | 400, _)
        | (403, "insufficient_scope" | r#"{"error":"Scope does not allow this product"}"#) => {
            match &*row.ask.path {
                "/cs" | "/sk" => &["ApiKey"],
                "/widget" => &["ClientKey", "ApiKey"],
                "/both-kinds" => &["ApiKey", "Bearer", "ClientKey"],
                _ => &["ApiKey", "Bearer"],
            }
        }
        _ => &[],
    };
    assert_eq!(schemes, expected, "{about}");
    let error = match row.says {
        "missing_api_key" => None,
        "multiple_api_keys" => Some("invalid_request"),
        "insufficient_scope" => Some("insufficient_scope"),
        "invalid_api_key" | "environment_mismatch" => Some("invalid_token"),
        _ => return,
    };
    for line in challenges {
        let realm = if row.ask.path == "/sk" {
            "helios"
        } else {
            "api"
        };
        assert!(
            line.contains(&format!(r#" realm="{realm}""#)),
            "{about}: {line}"
        );
        let found = line
            .split_once("error=\"")
            .and_then(|(_, rest)| rest.split('"').next());
        assert_eq!(found, error, "{about}: {line}");
    }
    let origin = row.says.starts_with("origin_");
    assert_eq!(!field("vary").is_empty(), origin, "{about}");
    assert_eq!(
        !field("retry-after").is_empty(),
        row.status == 503,
        "{about}"
    );
}

#[test]
fn with_cors_every_answer_is_the_same_but_for_the_cors_fields() {
    let without = Arc::new(Service::new());
    let cors = Cors::new()
        .max_age(Duration::from_secs(60))
        .methods(["GET", "PUT"])
        .request_header("X-Trace")
        .response_header("ETag");
    let with = Arc::new(Service::with_cors(Some(cors)));
    let asks = |service| {
        rows(service)
            .into_iter()
            .map(|row| row.ask)
            .collect::<Vec<_>>()
    };
    let plain = everywhere(&without, &asks(&without));
    let marked = everywhere(&with, &asks(&with));
    let rows = rows(&with);
    for ((row, plain), mut marked) in rows.iter().zip(plain).zip(marked) {
        let about = row.about;
        assert!(!format!("{plain:?}").contains("access-control"), "{about}");
        let mut take = |name: &str| marked.fields.remove(name).unwrap_or_default();
        assert_eq!(take("access-control-allow-origin"), ["*"], "{about}");
        if row.status == 204 {
            let methods = take("access-control-allow-methods");
            assert_eq!(methods, ["GET, PUT"], "{about}");
            let fields = take("access-control-allow-headers");
            let own = "content-type, x-api-key, authorization, x-client-key, x-trace";
            assert_eq!(fields, [own], "{about}");
            assert_eq!(take("access-control-max-age"), ["60"], "{about}");
        } else {
            let exposed = take("access-control-expose-headers");
            let own = "retry-after, ratelimit, ratelimit-policy, www-authenticate, etag";
            assert_eq!(exposed, [own], "{about}");
        }
        let listed = ["shop", "shop or server", "subdomains", "ports", "idna"];
        let is_listed = listed.iter().any(|key| {
            let mut lines = row.ask.fields.iter();
            lines.any(|(_, value)| *value == with.keys[key].as_bytes())
        });
        if row.status == 200 && is_listed {
            assert_eq!(take("vary"), ["Origin"], "{about}");
        }
        assert_eq!(marked, plain, "{about}");
    }
}

#[rustfmt::skip]
#[test]
fn a_handshake_loses_only_its_key_and_gets_a_subprotocol_everywhere() {
    let service = Arc::new(Service::with_cors(Some(Cors::new())));
    let who = "acme live Publishable {}; sees";
    for (lines, status, selected, says) in [
        (&["bearer, {publishable}"][..], 101, Some("bearer"), "[\"sec-websocket-protocol: bearer\"]"),
        (&["chat, bearer, {publishable}"], 101, Some("chat"), "[\"sec-websocket-protocol: chat, bearer\"]"),
        (&["news", "bearer", "{publishable}"], 101, Some("bearer"), "[\"sec-websocket-protocol: news, bearer\"]"),
        (&["{publishable}"], 101, None, "[]"),
        (&["bearer, {publishable}, {publishable}"], 400, None, "multiple_api_keys"),
        (&["bearer, {publishable}", "bearer, {publishable}"], 400, None, "multiple_api_keys"),
        (&["bearer, {publishable^}"], 401, None, "invalid_api_key"),
        (&["bearer, nonsense"], 401, None, "invalid_api_key"),
        (&["bearer"], 401, None, "missing_api_key"),
        (&["chat"], 401, None, "missing_api_key"),
        (&["bearer, {live}"], 403, None, "key_not_allowed"),
    ] {
        let mut fields: Vec<_> = lines.iter().map(|line| (PROTOCOL, fill(&service, line))).collect();
        fields.push(("connection", b"upgrade".into()));
        fields.push(("upgrade", b"websocket".into()));
        let ask = Ask { method: "GET", path: "/socket".to_owned(), fields };
        let answer = &everywhere(&service, &[ask])[0];
        assert_eq!(answer.status, status, "{lines:?}: {answer:?}");
        let field = answer.fields.get(PROTOCOL).map(|lines| lines.join("|"));
        assert_eq!(field.as_deref(), selected, "{lines:?}");
        if status == 101 {
            assert_eq!(answer.body, format!("{who} {says}"));
        } else {
            let code = format!(r#""code":"{says}"}}"#);
            assert!(answer.body.ends_with(&code), "{lines:?}: {}", answer.body);
        }
    }
    // Elsewhere the header is no place for a key, neither to caches nor in a preflight.
    let key = (PROTOCOL, fill(&service, "bearer, {publishable}"));
    let preflight = vec![(O, b"null".to_vec()), ("access-control-request-method", b"GET".into())];
    let asks = [("GET", vec![key]), ("OPTIONS", preflight)];
    let asks = asks.map(|(method, fields)| Ask { method, path: "/socket".to_owned(), fields });
    let answers = everywhere(&service, &asks);
    assert_eq!(answers[0].status, 401);
    assert!(answers[0].body.ends_with(r#""code":"missing_api_key"}"#));
    let allowed = &answers[1].fields["access-control-allow-headers"];
    assert_eq!(*allowed, ["content-type, x-client-key"]);
}

#[test]
fn what_cannot_be_told_apart_has_the_same_bytes() {
    let service = Arc::new(Service::new());
    let keys = [
        "unknown",
        "revoked",
        "disabled",
        "expired",
        "not valid yet",
        "swept",
        "other",
        "another product",
    ];
    let ask = |key: &str| Ask {
        method: "GET",
        path: "/acme".to_owned(),
        fields: vec![(X, service.keys[key].clone().into_bytes())],
    };
    let asks: Vec<_> = keys.into_iter().map(ask).collect();
    let mut answers = everywhere(&service, &asks);
    for answer in &mut answers {
        answer.denial = None;
    }
    assert_eq!(answers[0].status, 401);
    for (key, answer) in keys.iter().zip(&answers) {
        assert_eq!(answer, &answers[0], "{key}");
    }
}

#[test]
fn the_exact_answers_are_those_of_the_docs() {
    let service = Arc::new(Service::new());
    let ask = |path: &str, key: Option<&str>| Ask {
        method: "GET",
        path: path.to_owned(),
        fields: key
            .map(|key| (X, service.keys[key].clone().into_bytes()))
            .into_iter()
            .collect(),
    };
    let asks = [ask("/live", None), ask("/both", Some("live"))];
    let answers = everywhere(&service, &asks);
    assert_eq!(
        answers[0].body,
        r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"Send an API key as `x-api-key: <key>` or `Authorization: Bearer <key>`.","code":"missing_api_key"}"#
    );
    assert_eq!(
        answers[0].fields["www-authenticate"],
        [r#"ApiKey realm="api""#, r#"Bearer realm="api""#]
    );
    assert_eq!(
        answers[1].body,
        r#"{"type":"about:blank","title":"Forbidden","status":403,"detail":"The API key lacks a scope that is required here: kyc and reports.read.","code":"insufficient_scope"}"#
    );
    assert_eq!(
        answers[1].fields["www-authenticate"][1],
        r#"Bearer realm="api", error="insufficient_scope", scope="kyc reports.read""#
    );
}

#[test]
fn an_answer_says_what_to_do_instead_and_names_only_what_the_route_accepts() {
    let service = Arc::new(Service::new());
    let secret = "`x-api-key: <key>` or `Authorization: Bearer <key>`";
    let publishable = "`Authorization: ClientKey <key>` or `x-client-key: <key>`";
    let all = format!("{secret} or {publishable}");
    let leaked = "If it stands in a page or an app, it has leaked: replace it.";
    let only_secret = "This is a publishable API key, and only secret ones are accepted here.";
    let only_publishable = "This is a secret API key, and only publishable ones are accepted here.";
    let scheme = "The name of an authentication scheme, such as `Bearer`, stands before the API key, where the key is expected alone. Leave it out.";
    let quoted = "The API key stands in quotation marks or brackets. Send it without them.";
    for (path, lines, detail) in [
        ("/live", &[][..], format!("Send an API key as {secret}.")),
        ("/widget", &[], format!("Send an API key as {publishable}.")),
        ("/both-kinds", &[], format!("Send an API key as {all}.")),
        ("/live", &[(X, "{publishable}")], only_secret.to_owned()),
        ("/live", &[(C, "{publishable}")], only_secret.to_owned()),
        (
            "/widget",
            &[(X, "{publishable}")],
            format!("This is a publishable API key. Send it as {publishable}."),
        ),
        (
            "/both-kinds",
            &[(X, "{publishable}")],
            format!("This is a publishable API key. Send it as {publishable}."),
        ),
        ("/widget", &[(X, "{live}")], only_publishable.to_owned()),
        (
            "/widget",
            &[(C, "{live}")],
            format!("{only_publishable} {leaked}"),
        ),
        (
            "/both-kinds",
            &[(C, "{live}")],
            format!(
                "This is a secret API key in a place for publishable ones. {leaked} A server sends it as {secret}."
            ),
        ),
        (
            "/live",
            &[(X, "{free}")],
            "The plan of the account that owns the API key does not include the API.".to_owned(),
        ),
        // Of a good key, an unknown one and none at all alike.
        ("/live", &[(X, "Bearer {live}")], scheme.to_owned()),
        ("/live", &[(X, "bearer {unknown}")], scheme.to_owned()),
        ("/live", &[(X, "ClientKey {live}")], scheme.to_owned()),
        ("/live", &[(X, "ApiKey x")], scheme.to_owned()),
        (
            "/live",
            &[(A, "Bearer Bearer {revoked}")],
            scheme.to_owned(),
        ),
        ("/live", &[(X, "\"{live}\"")], quoted.to_owned()),
        ("/live", &[(X, "'{revoked}'")], quoted.to_owned()),
        ("/live", &[(A, "Bearer \"x\"")], quoted.to_owned()),
        ("/live", &[(A, "Bearer <{live}>")], quoted.to_owned()),
    ] {
        let fields = lines
            .iter()
            .map(|(name, value)| (*name, fill(&service, value)));
        let (method, path) = ("GET", path.to_owned());
        let ask = Ask {
            method,
            path,
            fields: fields.collect(),
        };
        let answer = &everywhere(&service, &[ask])[0];
        let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(body["detail"], detail, "{lines:?}");
    }
    // A service's own text for the code is for all of them.
    let fields = vec![(X, fill(&service, "Bearer {live}"))];
    let (method, path) = ("GET", "/own".to_owned());
    let own = &everywhere(
        &service,
        &[Ask {
            method,
            path,
            fields,
        }],
    )[0];
    assert_eq!(own.body, r#"{"error":"Invalid API key"}"#);
}

/// A request that says of itself that it has this content type.
fn claims(service: &Service, target: &str, key: Option<&str>, content_type: &str) -> Ask {
    let mut fields = vec![("content-type", content_type.into())];
    fields.extend(key.map(|key| (X, service.keys[key].clone().into_bytes())));
    let (method, path) = target.split_once(' ').unwrap();
    let mut methods = ["GET", "HEAD", "POST"].into_iter();
    let method = methods.find(|own| *own == method).unwrap();
    let path = path.to_owned();
    Ask {
        method,
        path,
        fields,
    }
}

#[test]
fn a_call_to_a_grpc_route_is_refused_as_grpc_has_it_everywhere() {
    let service = Arc::new(Service::new());
    let ask = |path: &str, key, content_type: &str| {
        claims(&service, &format!("POST {path}"), key, content_type)
    };
    for (path, key, status) in [
        ("/grpc", None, "16"),
        ("/grpc", Some("unknown"), "16"),
        ("/grpc", Some("suspended"), "7"),
        ("/grpc", Some("live"), "7"),
        ("/grpc", Some("office"), "7"),
    ] {
        for (asked, answered) in [
            ("application/grpc", "application/grpc"),
            ("application/grpc+proto", "application/grpc"),
            ("application/grpc-web-text", "application/grpc-web-text"),
        ] {
            let answer = &everywhere(&service, &[ask(path, key, asked)])[0];
            assert_eq!(answer.status, 200);
            assert_eq!(answer.fields["grpc-status"], [status], "{path} {key:?}");
            assert_eq!(answer.fields["content-type"], [answered]);
            assert_eq!(answer.fields["cache-control"], ["no-store"]);
            assert!(!answer.fields["grpc-message"][0].is_empty());
            assert_eq!(answer.fields.len(), 4, "{:?}", answer.fields);
            assert_eq!(answer.body, "");
        }
    }
}

#[test]
fn pages_may_send_and_read_what_grpc_web_needs_where_grpc_is_on() {
    let service = Arc::new(Service::with_cors(Some(Cors::new())));
    let preflight = |path: &str| {
        let asked = "content-type,grpc-timeout,x-api-key,x-grpc-web,x-user-agent";
        let fields = vec![
            (O, b"https://shop.example".to_vec()),
            ("access-control-request-method", b"POST".to_vec()),
            ("access-control-request-headers", asked.into()),
        ];
        let (method, path) = ("OPTIONS", path.to_owned());
        Ask {
            method,
            path,
            fields,
        }
    };
    let call = |path: &str| {
        claims(
            &service,
            &format!("POST {path}"),
            None,
            "application/grpc-web+proto",
        )
    };
    let asks = [
        preflight("/grpc"),
        preflight("/live"),
        call("/grpc"),
        call("/live"),
    ];
    let answers = everywhere(&service, &asks);
    let field = |at: usize, name: &str| answers[at].fields[name].join("|");
    let allowed = "content-type, x-api-key, authorization, x-client-key";
    let exposed = "retry-after, ratelimit, ratelimit-policy, www-authenticate";
    let (allow, expose) = (
        "access-control-allow-headers",
        "access-control-expose-headers",
    );
    let grpc = "grpc-timeout, x-grpc-web, x-user-agent";
    assert_eq!(field(0, allow), format!("{allowed}, {grpc}"));
    assert_eq!(field(1, allow), allowed);
    let grpc = "grpc-status, grpc-message, grpc-status-details-bin";
    assert_eq!(
        (answers[2].status, field(2, "grpc-status")),
        (200, "16".to_owned())
    );
    assert_eq!(field(2, expose), format!("{exposed}, {grpc}"));
    assert_eq!(
        (answers[3].status, field(3, expose)),
        (401, exposed.to_owned())
    );
}

#[test]
fn what_a_caller_says_of_his_request_changes_no_status() {
    let service = Arc::new(Service::new());
    for (target, key, status) in [
        ("GET /live", None, 401),
        ("POST /live", None, 401),
        ("POST /live", Some("suspended"), 403),
        ("POST /both", Some("live"), 403),
        ("POST /stale", Some("live"), 503),
        ("GET /grpc", None, 401),
        ("HEAD /grpc", None, 401),
    ] {
        let plain = claims(&service, target, key, "application/json");
        let [plain] = &everywhere(&service, &[plain])[..] else {
            unreachable!()
        };
        assert_eq!(plain.status, status, "{target}");
        for content_type in ["application/grpc", "application/grpc-web+proto"] {
            let claims = claims(&service, target, key, content_type);
            let answers = everywhere(&service, &[claims]);
            assert_eq!(&answers[0], plain, "{target} {content_type}");
        }
    }
    for (name, value) in [
        ("x-http-method-override", "OPTIONS"),
        ("x-method-override", "OPTIONS"),
        ("x-forwarded-for", "127.0.0.1"),
        ("forwarded", "for=127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-original-url", "/optional"),
        ("host", "localhost"),
        ("accept", "application/grpc"),
        ("te", "trailers"),
        ("expect", "100-continue"),
        ("upgrade", "websocket"),
        ("cookie", "session=1"),
        ("user-agent", "grpc-go/1.0"),
    ] {
        let mut ask = claims(&service, "POST /live", None, "application/json");
        let plain = everywhere(&service, &[ask.clone()]);
        ask.fields.push((name, value.into()));
        assert_eq!(everywhere(&service, &[ask]), plain, "{name}");
    }
}
