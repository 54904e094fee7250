//! FAULTS 25 and 29: what belongs to another tenant answers like what isn't there.

use futures::stream;
use kapok_lab::fabric::{Kapok, Person, text};
use kapok_proto::fabric::v1::{
    CreateConsoleTicketRequest, OpenConsoleRequest, instance_service_client::InstanceServiceClient,
};
use kapok_tests::{people::reason, real};
use kapok_types::{Env as _, env::System};
use tonic::{Code, Status};

use crate::world::World;

const NOT_FOUND: i32 = 3;

/// An id that nothing has.
fn unknown() -> String {
    System::new().uuid().to_string()
}

#[test]
fn another_tenants_things_are_as_good_as_absent() {
    let world = World::new(1);
    let system = world.by(Person::SystemAdministrator);
    for tenant in ["water", "parks"] {
        world.ok(&system, &format!("tenant create {tenant}"));
    }
    let ada = world.user("ada", "tenant-administrator:water");
    let bob = world.user("bob", "tenant-member:parks");
    for (who, tenant) in [(&ada, "water"), (&bob, "parks")] {
        let image = world.fabric.folder().join("image.raw");
        std::fs::write(&image, tenant.repeat(1 << 18)).unwrap();
        let import = format!("image import {} --name {tenant}-disk", image.display());
        world.ok(who, &import);
        let create = format!("instance create web --image {tenant}-disk --memory 64MiB --wait");
        world.ok(who, &create);
    }
    // One name in two tenants: each has their own.
    for (who, tenant) in [(&ada, "water"), (&bob, "parks")] {
        let web = world.json(who, "instance show web");
        assert_eq!(text(&web, "tenant"), tenant);
        assert_eq!(world.list(who, "instance ls").len(), 1);
        assert_eq!(world.list(who, "image ls").len(), 1);
    }
    named_or_not_it_is_absent(&world, &ada, &bob);
    a_console_is_for_its_owner_once(&world, &ada, &bob);
    // And after all that, it is as it was.
    let web = world.json(&ada, "instance show web");
    assert_eq!(text(&web, "phase"), "running", "{web}");
    world.end();
}

/// Asks for what ada has and for what nobody has: bob gets the same answer, but for the name.
fn named_or_not_it_is_absent(world: &World, ada: &Kapok, bob: &Kapok) {
    let web = world.json(ada, "instance show web");
    let image = world.json(ada, "image show water-disk");
    let operation = world.list(ada, "op ls");
    let of = |value: &serde_json::Value, field: &str| text(value, field).to_owned();
    let instances = [
        ("water/web".to_owned(), "water/wob".to_owned()),
        (of(&web, "id"), unknown()),
    ];
    let images = [
        ("water/water-disk".to_owned(), "water/other-disk".to_owned()),
        (of(&image, "id"), unknown()),
    ];
    let operations = [(of(&operation[0], "id"), unknown())];
    let tenants = [("water".to_owned(), "wator".to_owned())];
    let lines: [(&[_], &[&str]); 4] = [
        (
            &instances,
            &[
                "instance show @",
                "instance start @",
                "instance stop @",
                "instance restart @",
                "instance rm @ --yes",
                "instance console @",
                "instance explain @",
                "op ls --instance @",
            ],
        ),
        (
            &images,
            &[
                "image show @",
                "image rm @",
                "instance create mine --image @ --memory 64MiB",
                "instance explain --image @ --memory 64MiB",
            ],
        ),
        (&operations, &["op show @", "op watch @", "op cancel @"]),
        (
            &tenants,
            &[
                "tenant show @",
                "tenant update @ --contact a",
                "tenant suspend @",
                "tenant rm @ --yes",
                "quota show @",
                "quota set @ --vcpus 1",
                "instance ls --tenant @",
                "instance create mine --image parks-disk --memory 64MiB --tenant @",
            ],
        ),
    ];
    for (names, lines) in lines {
        for (theirs, nobodys) in names {
            assert!(!theirs.is_empty());
            for line in lines {
                let [there, absent] = [theirs, nobodys].map(|name| {
                    let answer = world.run(bob, &line.replace('@', name));
                    // Each command's trace has an id of its own.
                    let said = answer.err.lines().filter(|it| !it.starts_with("trace: "));
                    let said: Vec<_> = said.map(|it| it.replace(name.as_str(), "@")).collect();
                    let said = said.join("\n");
                    (answer.code, answer.out, said)
                });
                assert_eq!(there, absent, "{line}");
                // A list of what belongs to nobody known is an empty one.
                let code = if line.starts_with("op ls") {
                    0
                } else {
                    NOT_FOUND
                };
                assert_eq!(there.0, code, "{line}: {}", there.2);
            }
        }
    }
    for line in ["instance ls", "image ls", "op ls", "events", "tenant ls"] {
        let said = world.ok(bob, &format!("{line} -o json"));
        assert!(!said.contains("water"), "{line} tells of water: {said}");
    }
}

/// FAULTS 29: a ticket opens one console, once, for whoever asked for it.
fn a_console_is_for_its_owner_once(world: &World, ada: &Kapok, bob: &Kapok) {
    let client = |who: &Kapok| InstanceServiceClient::new(real::channel(who).unwrap());
    let (mut ada, mut bob) = world.wait(async { (client(ada), client(bob)) });
    let ask = CreateConsoleTicketRequest {
        instance: "water/web".into(),
    };
    let refused = world
        .wait(bob.create_console_ticket(ask.clone()))
        .unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    let mut ticket = || {
        let given = world.wait(ada.create_console_ticket(ask.clone())).unwrap();
        let ticket = given.into_inner().ticket;
        world.remember(&ticket, "console ticket");
        ticket
    };
    let (stolen, good) = (ticket(), ticket());
    let open = |client: &mut InstanceServiceClient<_>, ticket: &str| -> Result<(), Status> {
        let first = OpenConsoleRequest {
            ticket: ticket.into(),
            ..OpenConsoleRequest::default()
        };
        world
            .wait(client.open_console(stream::iter([first])))
            .map(drop)
    };
    let refused = open(&mut bob, &stolen).unwrap_err();
    assert_eq!(reason(&refused), "TICKET_REFUSED", "{refused}");
    open(&mut ada, &good).unwrap();
    for used in [&good, &stolen] {
        let refused = open(&mut ada, used).unwrap_err();
        assert_eq!(reason(&refused), "TICKET_REFUSED", "{refused}");
    }
}
