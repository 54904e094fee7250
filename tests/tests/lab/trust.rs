//! FAULTS 21 and 22 where it matters: certificates that end bring nobody down, and nobody but a
//! controller commands an agent.

use std::time::Duration;

use anyhow::{Result, ensure};
use kapok_lab::{
    fabric::{Kapok, Person, Settings, text},
    wait::{pause, until},
};
use kapok_proto::agent::v1::{GetNodeRequest, node_service_client::NodeServiceClient};
use kapok_tests::{people::reason, real};
use kapok_trust::{Credentials, connector, dns};
use kapok_types::{NodeId, env::System};
use serde_json::Value;
use tokio::runtime::Builder;
use tonic::{Code, Status};

use crate::{
    kills,
    world::{SOON, World},
};

/// How long the certificates live that end in this story.
const LIFE: Duration = Duration::from_secs(20);

/// The controller is away until the certificates of all nodes, and its own, have ended. Guests and
/// agents don't notice; with a token each, the nodes are back as who they were.
pub(crate) fn a_node_whose_certificate_ended_comes_back(world: &World<'_>) -> Result<()> {
    let before = kills::lives(world)?;
    let nodes = world.nodes()?;
    let agents = agents(world);
    world.fabric.kill_controller()?;
    world.fabric.configure_controller(&Settings {
        certificate_life: LIFE,
        ..world.fabric.settings().clone()
    })?;
    world.fabric.start_controller()?;
    // Another authority: every node gets a certificate of it at once.
    let security = world.kapok().by(Person::SecurityAdministrator);
    security.run(&["ca", "rotate", "--yes"])?;
    for (index, node) in nodes.iter().enumerate() {
        let old = serial(node);
        world.node_becomes(index, "renewed", SOON, |node| serial(node) != old)?;
    }
    world.nodes_become("ready", SOON)?;

    world.fabric.kill_controller()?;
    world.fabric.configure_controller(world.fabric.settings())?;
    pause(LIFE + Duration::from_secs(2));
    kills::all_live_on(world, &before)?;
    world.fabric.start_controller()?;
    world.nodes_become("certificate-expired", SOON)?;
    for (index, host) in world.lab().hosts().iter().enumerate() {
        let said = world.fabric.agent_log(index);
        ensure!(
            said.contains("the certificate of this node ran out"),
            "the agent of {} doesn't say so: {said}",
            host.name()
        );
    }
    kills::all_live_on(world, &before)?;

    for index in 0..nodes.len() {
        world.fabric.join(index)?;
    }
    kills::afterwards(world, &before)?;
    ensure!(ids(&nodes) == ids(&world.nodes()?), "other nodes came back");
    ensure!(agents == self::agents(world), "an agent was restarted");
    Ok(())
}

/// An agent does for a system administrator, and for a node, nothing at all.
pub(crate) fn an_agent_takes_commands_from_controllers_alone(world: &World<'_>) -> Result<()> {
    let door = world.fabric.agent_door(0)?;
    let address = door.local().to_string();
    let node: NodeId = text(&world.node(0)?, "id").parse()?;
    let trust = world.lab().host(1).machine().path(NODE_TRUST);
    let other = Credentials::load(&trust, System::new())?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let person = |kapok: &Kapok| real::person(&kapok.credential());
    for somebody in [other, person(world.kapok())?] {
        let name = dns::node(&somebody.certificate().identity.fabric, node);
        let refused: Status = runtime.block_on(async {
            let channel = connector::channel(&somebody, &address, &name, |it| it)?;
            let mut agent = NodeServiceClient::new(channel);
            let answer = agent.get_node(GetNodeRequest::default()).await;
            answer.map_or_else(Ok, |told| anyhow::bail!("it was told {told:?}"))
        })?;
        ensure!(refused.code() == Code::PermissionDenied, "{refused}");
        ensure!(reason(&refused) == "FORBIDDEN", "{refused}");
    }
    until("the refusals in the agent's log", SOON, || {
        let said = world.fabric.agent_log(0);
        Ok(said.contains("a call was refused").then_some(()))
    })
}

/// Where an agent keeps its certificate.
const NODE_TRUST: &str = "/var/lib/kapok/agent/trust";

fn serial(node: &Value) -> &str {
    text(node, "certificate_serial")
}

fn ids(nodes: &[Value]) -> Vec<(&str, &str)> {
    let id = |node| (text(node, "name"), text(node, "id"));
    nodes.iter().map(id).collect()
}

/// The processes of all agents.
fn agents(world: &World<'_>) -> Vec<Option<u32>> {
    let hosts = 0..world.lab().hosts().len();
    hosts.map(|index| world.fabric.agent_pid(index)).collect()
}
