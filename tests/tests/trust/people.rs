//! People and machines: three who are kept apart, tokens, and the end of a certificate on
//! connections that are open. FAULTS 21.

use kapok_lab::{
    fabric::{Kapok, Person, text},
    wait::until,
};
use kapok_proto::fabric::v1::{
    WatchEventsRequest, WatchEventsResponse, event_service_client::EventServiceClient,
};
use kapok_tests::real;
use kapok_trust::{Alert, Credentials, TlsFailure, connector, dns};
use tonic::{Status, Streaming};

use crate::world::{SOON, World};

/// A value is wrong.
const USAGE: i32 = 2;
/// What was named doesn't exist.
const NOT_FOUND: i32 = 3;
/// Not logged in, or not allowed.
const NOT_ALLOWED: i32 = 9;

/// The first three credentials open different things: none of them is enough to do something and
/// to hide it.
#[test]
fn the_three_administrators_are_kept_apart() {
    let world = World::new(1);
    let (system, security, auditor) = (
        world.by(Person::SystemAdministrator),
        world.by(Person::SecurityAdministrator),
        world.by(Person::Auditor),
    );
    let image = world.fabric.folder().join("image.raw");
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    let import = format!("image import {} --name blank", image.display());
    let create = "instance create web --image blank --memory 64MiB --wait";
    let may = |who: &Kapok, lines: &[&str]| {
        for line in lines {
            world.ok(who, line);
        }
    };
    let may_not = |who: &Kapok, lines: &[&str]| {
        for line in lines {
            let said = world.refused(who, line, NOT_ALLOWED);
            assert!(said.contains("not permitted"), "{line}: {said}");
        }
    };
    may(&system, &[&import, create, "tenant create water"]);
    may_not(
        &system,
        &[
            "audit ls",
            "audit verify",
            "audit export",
            "user ls",
            "user create mallory --grant auditor",
            "token create user/auditor",
            "certificate ls",
            "ca rotate --yes",
        ],
    );
    may(
        &security,
        &[
            "user create eve --grant auditor",
            "user disable eve --yes",
            "user rm eve --yes",
            "certificate ls",
            "ca ls",
            "node ls",
        ],
    );
    may_not(
        &security,
        &[
            "instance create mine --image blank --memory 64MiB",
            "node cordon sim-1",
            "node token create mine",
            "tenant create mine",
            &import.replace("blank", "mine"),
            "audit ls",
            "user grant security-administrator auditor",
        ],
    );
    // Nobody is two of them, nor one of them and anything else.
    let two = "user create mallory --grant auditor --grant system-administrator";
    let said = world.refused(&security, two, USAGE);
    assert!(said.contains("kept apart"), "{said}");
    // What one may not even see is as good as absent.
    for (who, line) in [
        (&system, "user grant system-administrator auditor"),
        (&system, "user disable auditor --yes"),
        (&security, "instance stop web"),
        (&security, "instance rm web --yes"),
    ] {
        world.refused(who, line, NOT_FOUND);
    }
    assert!(world.list(&security, "instance ls").is_empty());
    may(
        &auditor,
        &[
            "audit ls",
            "audit verify",
            "user ls",
            "node ls",
            "instance show web",
            "ca ls",
            "token ls",
        ],
    );
    may_not(
        &auditor,
        &[
            "instance stop web",
            "instance console web",
            "node cordon sim-1",
            "user create mallory --grant auditor",
            "ca rotate --yes",
            "tenant create mine",
            &import.replace("blank", "mine"),
        ],
    );
    let why = world.ok(&auditor, "auth why user/system-administrator audit.read");
    assert!(why.contains("audit-for-auditors"), "{why}");
    let last = "user rm security-administrator --yes";
    world.refused(&security, last, NOT_ALLOWED);
    for who in [&system, &security, &auditor] {
        let name = text(&world.json(who, "whoami"), "subject").to_owned();
        world.recorded("audit ls --refused --limit 1000", &name, |entry| {
            text(entry, "actor") == name && entry.to_string().contains("FORBIDDEN")
        });
    }
    world.end();
}

/// FAULTS 21: a certificate ends where it is used, too: when it is revoked, when its owner is
/// disabled, and in time.
#[test]
fn a_certificate_ends_on_open_connections() {
    let world = World::new(1);
    let security = world.by(Person::SecurityAdministrator);
    world.ok(&security, "user create ada --grant auditor");

    // Once for each token, and for its owner alone.
    let token = world.token(&security, "user token ada");
    let ada = world.log_in("ada", &token, "");
    let (_, again) = world.try_log_in("again", &token, "");
    assert_eq!(again.code, NOT_ALLOWED, "{again:?}");

    let mut open = Watch::new(&world, &ada);
    let serial = text(&world.json(&ada, "whoami"), "serial").to_owned();
    let revoke = format!("certificate revoke {serial} --reason lost --yes");
    world.ok(&security, &revoke);
    open.ends(&world);
    assert_eq!(open.refusal(&world), Alert::Revoked);
    world.refused(&ada, "whoami", NOT_ALLOWED);

    let token = world.token(&security, "user token ada");
    let ada = world.log_in("ada", &token, "");
    let mut open = Watch::new(&world, &ada);
    world.ok(&security, "user disable ada --yes");
    open.ends(&world);
    assert_eq!(open.refusal(&world), Alert::Revoked);
    world.refused(&ada, "whoami", NOT_ALLOWED);

    world.ok(&security, "user enable ada");
    let token = world.token(&security, "user token ada");
    let ada = world.log_in("ada", &token, " --life 10s");
    let mut open = Watch::new(&world, &ada);
    open.ends(&world);
    assert_eq!(open.refusal(&world), Alert::Expired);
    let said = world.refused(&ada, "whoami", NOT_ALLOWED);
    assert!(said.contains("ended"), "{said}");

    for reason in ["revoked", "expired"] {
        world.recorded("audit ls --refused --limit 1000", reason, |entry| {
            entry.to_string().contains(reason)
        });
    }
    world.end();
}

/// A machine's token is good until it ends or is taken back, and so are its certificates.
#[test]
fn a_machine_logs_in_until_its_token_is_taken_back() {
    let world = World::new(1);
    let security = world.by(Person::SecurityAdministrator);
    world.ok(
        &security,
        "user create machine/ci --grant tenant-member:city",
    );
    let token = world.token(&security, "token create machine/ci --life 1h");
    let machines = ["first", "second"].map(|name| world.log_in(name, &token, ""));
    for machine in &machines {
        let me = world.json(machine, "whoami");
        assert_eq!(text(&me, "subject"), "machine/ci");
        world.ok(machine, "instance ls");
        world.refused(machine, "ca ls", NOT_ALLOWED);
    }
    let listed = world.list(&security, "token ls --subject machine/");
    let [only] = listed.as_slice() else {
        panic!("{listed:?}")
    };
    let mut open = Watch::new(&world, &machines[0]);
    world.ok(&security, &format!("token rm {} --yes", text(only, "id")));
    open.ends(&world);
    for machine in &machines {
        world.refused(machine, "whoami", NOT_ALLOWED);
    }
    let (_, late) = world.try_log_in("late", &token, "");
    assert_eq!(late.code, NOT_ALLOWED, "{late:?}");
    world.end();
}

/// Somebody who follows the events.
struct Watch {
    credentials: Credentials,
    events: Streaming<WatchEventsResponse>,
}

impl Watch {
    fn new(world: &World, who: &Kapok) -> Self {
        let credentials = real::person(&who.credential()).unwrap();
        let events = world.wait(async {
            let channel = real::to_controller(&credentials, who.server()).unwrap();
            let mut client = EventServiceClient::new(channel);
            let watch = WatchEventsRequest {
                after_sequence: Some(0),
                until_now: false,
            };
            let mut events = client.watch_events(watch).await.unwrap().into_inner();
            events.message().await.unwrap().unwrap();
            events
        });
        Self {
            credentials,
            events,
        }
    }

    /// Waits until the controller ends it: with the connection, not in order.
    fn ends(&mut self, world: &World) {
        let end: Result<(), Status> = world.wait(async {
            while self.events.message().await?.is_some() {}
            Ok(())
        });
        end.unwrap_err();
    }

    /// What a new connection is refused with. A certificate's last second is whole.
    fn refusal(&self, world: &World) -> Alert {
        let server = world.fabric.kapok().server();
        let name = dns::controller(&self.credentials.certificate().identity.fabric);
        let dial = || {
            let dialled = world.wait(connector::stream(&self.credentials, server, &name));
            Ok(dialled.err())
        };
        let error = until("a refusal", SOON, dial).unwrap();
        match connector::failure(&error) {
            Some(TlsFailure::PeerRefusedUs(alert)) => alert,
            other => panic!("{other:?}: {error}"),
        }
    }
}
