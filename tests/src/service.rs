//! One service with every sort of key and route, from which each stack builds the same API.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keyward::address::AddressPolicy;
use keyward::clock::ManualClock;
use keyward::denial::ErrorCode;
use keyward::gate::GateBuilder;
use keyward::key::Alphabet;
use keyward::record::{Account, AccountStatus, KeyRecord, KeyStatus};
use keyward::replica::Replica;
use keyward::reply::{DetailJson, ErrorJson, ErrorMessageJson};
use keyward::store::Commit;
use keyward::testing::block_on;
use keyward::{
    AccountId, Cors, Environment, Gate, KeyFormat, KeyId, KeyKind, KeyLocation, KeyScheme,
    MemoryStore, OriginPolicy, Peppers, Replies, Requirement, ScopeCatalog, Scopes, Store,
};

/// The time at which everything happens.
pub const NOW: Duration = Duration::from_secs(1_700_000_000);

/// The proxy through which requests come.
pub const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// A service: its store, its keys by name and its routes by path.
pub struct Service {
    pub clock: Arc<ManualClock>,
    pub store: Arc<MemoryStore>,
    pub keys: HashMap<&'static str, String>,
    pub routes: Vec<(&'static str, Gate, Requirement)>,
    /// The address from which every connection comes, at first that of a trusted proxy.
    pub peer: Option<IpAddr>,
    cors: Option<Cors>,
}

impl Service {
    pub fn new() -> Self {
        Self::with_cors(None)
    }

    pub fn with_cors(cors: Option<Cors>) -> Self {
        let clock = Arc::new(ManualClock::at(NOW));
        let store = MemoryStore::with_clock(Arc::<ManualClock>::clone(&clock));
        let mut service = Self {
            clock,
            store: Arc::new(store),
            keys: HashMap::new(),
            routes: Vec::new(),
            peer: Some(PROXY),
            cors,
        };
        service.open_accounts();
        service.make_keys();
        service.draw_routes();
        service
    }

    fn open_accounts(&self) {
        let account = |id| Account::new(AccountId::parse(id).unwrap());
        let mut suspended = account("suspended");
        suspended.status = AccountStatus::Suspended;
        let mut free = account("free");
        free.api_access = false;
        let mut swept = account("swept");
        swept.revoked.insert(Environment::LIVE, 1);
        let accounts = vec![account("acme"), account("other"), suspended, free, swept];
        let commit = Commit {
            accounts,
            ..Commit::default()
        };
        block_on(self.store.commit(commit)).unwrap();
    }

    fn make_keys(&mut self) {
        let scopes = |scopes: &[&str]| Scopes::parse(scopes).unwrap();
        let origins = |patterns: &[&str]| OriginPolicy::listed(patterns).unwrap();
        let live = Environment::LIVE;
        self.key("live", live, |_| {});
        self.key("test", Environment::TEST, |_| {});
        self.key("staging", Environment::parse("staging").unwrap(), |_| {});
        self.key("kyc", live, |key| key.scopes = scopes(&["kyc"]));
        self.key("hybrid", live, |key| key.scopes = scopes(&["hybrid"]));
        self.key("reports", live, |key| key.scopes = scopes(&["reports.*"]));
        self.key("other", live, |key| {
            key.account = AccountId::parse("other").unwrap();
        });
        self.key("suspended", live, |key| {
            key.account = AccountId::parse("suspended").unwrap();
        });
        self.key("free", live, |key| {
            key.account = AccountId::parse("free").unwrap();
        });
        self.key("swept", live, |key| {
            key.account = AccountId::parse("swept").unwrap();
        });
        self.key("revoked", live, |key| key.status = KeyStatus::Revoked);
        self.key("disabled", live, |key| key.status = KeyStatus::Disabled);
        let at = SystemTime::UNIX_EPOCH + NOW;
        self.key("expired", live, |key| key.expires_at = Some(at));
        self.key("not valid yet", live, |key| {
            key.not_before = Some(at + Duration::from_secs(1));
        });
        self.key("expiring", live, |key| {
            key.expires_at = Some(at + Duration::from_secs(1));
        });
        self.key("publishable", live, |key| key.kind = KeyKind::Publishable);
        self.key("shop", live, |key| key.origins = origins(&["shop.example"]));
        self.key("shop or server", live, |key| {
            key.origins = origins(&["shop.example"]).or_no_origin();
        });
        self.key("subdomains", live, |key| {
            key.origins = origins(&["*.shop.example"]);
        });
        self.key("ports", live, |key| {
            key.origins = origins(&["http://localhost:*"]);
        });
        self.key("idna", live, |key| {
            key.origins = origins(&["bücher.example"]);
        });
        let addresses = |ranges: &[&str]| AddressPolicy::listed(ranges).unwrap();
        self.key("office", live, |key| {
            key.addresses = addresses(&["203.0.113.7", "198.51.100.0/24", "2001:db8::7"]);
        });
        self.key("proxy", live, |key| {
            key.addresses = addresses(&["10.0.0.0/8"]);
        });
        self.key("local", live, |key| {
            key.addresses = addresses(&["127.0.0.3"]);
        });
        self.key("office page", live, |key| {
            key.addresses = addresses(&["203.0.113.7"]);
            key.origins = origins(&["shop.example"]);
        });
        self.foreign_key("unknown", "vhk_{env}_", false);
        self.foreign_key("another product", "xyz_{env}_", true);
        self.foreign_key("sk", "sk_live_", true);
        self.foreign_key("cs", "cs_", true);
    }

    fn key(&mut self, name: &'static str, env: Environment, change: impl FnOnce(&mut KeyRecord)) {
        self.make(name, &format("vhk_{env}_"), env, true, change);
    }

    fn foreign_key(&mut self, name: &'static str, prefix: &str, stored: bool) {
        self.make(name, &format(prefix), Environment::LIVE, stored, |_| {});
    }

    fn make(
        &mut self,
        name: &'static str,
        format: &KeyFormat,
        environment: Environment,
        stored: bool,
        change: impl FnOnce(&mut KeyRecord),
    ) {
        let key = format.generate(environment).unwrap();
        self.keys.insert(name, key.expose_secret().to_owned());
        let mut record = KeyRecord::new(
            KeyId::random().unwrap(),
            Peppers::none().digest(&key),
            key.hint().clone(),
            AccountId::parse("acme").unwrap(),
            environment,
            SystemTime::UNIX_EPOCH,
        );
        change(&mut record);
        let keys = if stored { vec![record] } else { vec![] };
        let commit = Commit {
            keys,
            ..Commit::default()
        };
        block_on(self.store.commit(commit)).unwrap();
    }

    fn builder(&self, replica: &Replica, scheme: &KeyScheme) -> GateBuilder {
        let builder = Gate::builder_from_replica(replica, scheme);
        match &self.cors {
            Some(cors) => builder.cors(cors.clone()),
            None => builder,
        }
    }

    fn draw_routes(&mut self) {
        let implied = ["kyc", "kyc_plus", "reports.read"];
        let catalog = ScopeCatalog::new(implied)
            .unwrap()
            .implying("hybrid", implied)
            .unwrap();
        let vhk = KeyScheme::new(format("vhk_{env}_")).catalog(catalog);
        let main = || {
            self.builder(self.store.replica(), &vhk)
                .location(KeyLocation::x_api_key())
                .location(KeyLocation::bearer())
                .location(KeyLocation::client_key())
                .location(KeyLocation::x_client_key())
                .trusted_proxies([PROXY.to_string()])
                .unwrap()
        };
        let gate = main().build().unwrap();
        let any = Requirement::new;
        let account = AccountId::parse("acme").unwrap();
        let staging = Environment::parse("staging").unwrap();
        let stale = self.builder(&Replica::new(), &vhk).build().unwrap();
        let apart = main()
            .replies(Replies::default().tell_dead_keys_apart())
            .build()
            .unwrap();
        let own = Replies::new(ErrorJson)
            .text(ErrorCode::InvalidApiKey, "Invalid API key")
            .text(ErrorCode::EnvironmentMismatch, "Environment mismatch")
            .text(
                ErrorCode::InsufficientScope,
                "Scope does not allow this product",
            )
            .text(
                ErrorCode::OriginNotAllowed,
                "Origin not allowed for this key",
            );
        let own = main().replies(own).build().unwrap();
        let cs = Replies::new(DetailJson)
            .text(ErrorCode::MissingApiKey, "Invalid user credentials")
            .text(ErrorCode::InvalidApiKey, "Invalid user credentials");
        let cs = self
            .builder(self.store.replica(), &KeyScheme::new(format("cs_")))
            .location(KeyLocation::raw_authorization())
            .replies(cs)
            .build()
            .unwrap();
        let sk = Replies::new(ErrorMessageJson)
            .text(ErrorCode::MissingApiKey, "Invalid or missing API key")
            .text(ErrorCode::InvalidApiKey, "Invalid or missing API key")
            .status(ErrorCode::AccountInactive, 402);
        let sk = self
            .builder(self.store.replica(), &KeyScheme::new(format("sk_live_")))
            .location(KeyLocation::header("X-Helios-Key").unwrap())
            .realm("helios")
            .replies(sk)
            .build()
            .unwrap();
        let socket = self
            .builder(self.store.replica(), &vhk)
            .location(KeyLocation::x_client_key())
            .location(KeyLocation::websocket_protocol())
            .build()
            .unwrap();
        self.routes = vec![
            ("/live", gate.clone(), any()),
            ("/test", gate.clone(), any().environment(Environment::TEST)),
            (
                "/staging",
                gate.clone(),
                any().environments([staging, Environment::TEST]),
            ),
            ("/any", gate.clone(), any().any_environment()),
            ("/kyc", gate.clone(), any().scope("kyc")),
            (
                "/both",
                gate.clone(),
                any().scope("kyc").scope("reports.read"),
            ),
            (
                "/either",
                gate.clone(),
                any().any_scope(["kyc", "kyc_plus"]),
            ),
            ("/reports", gate.clone(), any().scope("reports.read")),
            ("/widget", gate.clone(), any().kinds([KeyKind::Publishable])),
            (
                "/both-kinds",
                gate.clone(),
                any().kinds([KeyKind::Publishable, KeyKind::Secret]),
            ),
            ("/acme", gate.clone(), any().account(account)),
            ("/grpc", gate.clone(), any().scope("kyc").grpc()),
            ("/optional", gate.clone(), any().optional()),
            ("/or-other", gate.clone(), any().or_other_credential()),
            (
                "/or-nothing",
                gate.clone(),
                any().or_other_credential().optional().report_only(),
            ),
            ("/beside", gate, any().beside_other_credential()),
            ("/socket", socket, any().kinds([KeyKind::Publishable])),
            ("/stale", stale, any()),
            ("/apart", apart, any()),
            ("/own", own, any().scope("kyc")),
            ("/cs", cs, any()),
            ("/sk", sk, any()),
        ];
    }
}

fn format(prefix: &str) -> KeyFormat {
    let format = KeyFormat::new(prefix).unwrap();
    match prefix {
        "cs_" => format
            .alphabet(Alphabet::Base64Url)
            .length(64)
            .unwrap()
            .without_checksum(),
        _ => format,
    }
}
