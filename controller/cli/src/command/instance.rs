//! `kapok instance …`

use kapok_proto::{
    common::v1 as common,
    fabric::v1::{
        CreateInstanceRequest, CreateInstancesRequest, DeleteInstanceRequest,
        ExplainInstanceRequest, GetInstanceRequest, ListInstancesRequest, ResizeInstanceRequest,
        RestartInstanceRequest, StartInstanceRequest, StopInstanceRequest, UpdateInstanceRequest,
        explain_instance_request::Question,
        instance_service_client::InstanceServiceClient as Instances,
    },
};
use kapok_types::{Name, instance::RunPolicy};

use super::{changed, confirm, console, finish, image, mask, outcomes, system};
use crate::{
    args::instance::{Command, Create, Explain, Resize, Several},
    client::{Client, PAGE, pages},
    error::{Doing, Error},
    human::plain,
    output::Out,
    view::{explain::Explanation, instance::Instance, operation::Operation},
};

/// Lists what could have been meant.
pub(super) const LOOK: &str = "kapok instance ls";

/// What happens to several instances.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Start,
    Stop,
    Restart,
    Remove,
}

/// Does it.
pub(super) async fn run(client: &Client, out: &mut Out, command: Command) -> Result<(), Error> {
    match command {
        Command::Create(create) => create_one(client, out, create).await,
        Command::Ls {
            node,
            tenant,
            system,
        } => list(client, out, node, tenant, system).await,
        Command::Show { instance } => show(client, out, instance).await,
        Command::Update {
            instance,
            system,
            etag,
            request,
        } => {
            let request = UpdateInstanceRequest {
                instance,
                update_mask: Some(mask(&[("system", true)])),
                etag,
                request_id: client.request_id(request.request_id),
                system: system.to_string(),
            };
            update(client, out, request).await
        }
        Command::Start(several) => change(client, out, Verb::Start, several).await,
        Command::Stop(several) => change(client, out, Verb::Stop, several).await,
        Command::Restart(several) => change(client, out, Verb::Restart, several).await,
        Command::Resize(resize) => resized(client, out, resize).await,
        Command::Rm { several, yes } => {
            let names = several.instances.join(", ");
            confirm(yes, &format!("Delete {names} with their root disks?"))?;
            change(client, out, Verb::Remove, several).await
        }
        Command::Console { instance, force } => console::run(client, out, instance, force).await,
        Command::Explain(explain) => explained(client, out, explain).await,
    }
}

async fn create_one(client: &Client, out: &mut Out, create: Create) -> Result<(), Error> {
    // What can be missing here is the image.
    let doing = Doing::new(format!("create instance {}", create.name), image::LOOK).shown_by(LOOK);
    let request_id = client.request_id(create.request.request_id);
    let request = CreateInstanceRequest {
        name: create.name.to_string(),
        image: create.image,
        vcpus: create.size.vcpus(),
        memory_mib: create.memory.unwrap_or_default().get(),
        root_disk_bytes: create.size.disk.unwrap_or_default().get(),
        run_policy: common::RunPolicy::from(RunPolicy::from(create.run_policy)).into(),
        stopped: create.stopped,
        request_id: request_id.clone(),
        validate_only: create.dry_run,
        tenant: text(create.tenant),
        system: text(create.system),
        flavor: text(create.size.flavor),
        needs: create.needs.wire(),
        groups: create.groups.iter().map(ToString::to_string).collect(),
    };
    if let Some(count) = create.count {
        return create_several(client, out, &doing, request, count, create.wait).await;
    }
    if create.dry_run {
        // What each node says first: whoever is refused learns why.
        let question = Question::Create(request.clone());
        explain(client, out, &doing, question).await?;
        client
            .change(&doing, &request_id, async |channel| {
                Instances::new(channel)
                    .create_instance(request.clone())
                    .await
            })
            .await?;
        out.remark(&format!(
            "{} was not created: this was a dry run",
            create.name
        ));
        return Ok(());
    }
    let accepted = client
        .change(&doing, &request_id, async |channel| {
            Instances::new(channel)
                .create_instance(request.clone())
                .await
        })
        .await?;
    finish(client, out, Operation::from(accepted), create.wait).await
}

/// Creates several that differ by their names' numbers: all of them, or none.
async fn create_several(
    client: &Client,
    out: &mut Out,
    doing: &Doing,
    wish: CreateInstanceRequest,
    count: u32,
    wait: bool,
) -> Result<(), Error> {
    let (request_id, validate_only) = (wish.request_id.clone(), wish.validate_only);
    let one = |number| CreateInstanceRequest {
        name: format!("{}-{number}", wish.name),
        request_id: String::new(),
        validate_only: false,
        ..wish.clone()
    };
    let request = CreateInstancesRequest {
        instances: (1..=count).map(one).collect(),
        request_id: request_id.clone(),
        validate_only,
    };
    let accepted = client
        .change(doing, &request_id, async |channel| {
            Instances::new(channel)
                .create_instances(request.clone())
                .await
        })
        .await?;
    let accepted: Vec<_> = accepted
        .operations
        .into_iter()
        .map(Operation::from)
        .collect();
    if validate_only {
        if !out.format().is_for_people() {
            return out.data(&accepted);
        }
        for operation in &accepted {
            out.line(&format!(
                "{}: {}",
                operation.subject(),
                plain(&operation.detail)
            ))?;
        }
        out.remark("nothing was created: this was a dry run");
        return Ok(());
    }
    let (operations, errors) = outcomes(client, out, accepted, wait).await?;
    if !out.format().is_for_people() {
        out.data(&operations)?;
    }
    Error::all(errors)
}

async fn update(
    client: &Client,
    out: &mut Out,
    request: UpdateInstanceRequest,
) -> Result<(), Error> {
    let name = request.instance.clone();
    let doing = Doing::new(format!("change instance {name}"), LOOK);
    let request_id = request.request_id.clone();
    let instance = client
        .change(&doing, &request_id, async |channel| {
            Instances::new(channel)
                .update_instance(request.clone())
                .await
        })
        .await?;
    let what = format!("belongs to system {}", plain(&instance.system));
    changed(client, out, &Instance::from(instance), &name, &what)
}

async fn list(
    client: &Client,
    out: &mut Out,
    node: Option<String>,
    tenant: Option<Name>,
    system: Option<String>,
) -> Result<(), Error> {
    let look = match (&node, &system, &tenant) {
        (Some(_), ..) => "kapok node ls",
        (None, Some(_), _) => system::LOOK,
        (None, None, Some(_)) => "kapok tenant ls",
        (None, None, None) => LOOK,
    };
    let (node, tenant) = (node.unwrap_or_default(), text(tenant));
    let within = system.unwrap_or_default();
    let doing = Doing::new("list instances", look);
    let instances = pages(&doing, async |page_token| {
        let request = ListInstancesRequest {
            node: node.clone(),
            tenant: tenant.clone(),
            system: within.clone(),
            page_size: PAGE,
            page_token,
        };
        let page = client
            .read(&doing, async |channel| {
                Instances::new(channel)
                    .list_instances(request.clone())
                    .await
            })
            .await?;
        Ok((page.instances, page.next_page_token))
    })
    .await?;
    let instances: Vec<_> = instances.into_iter().map(Instance::from).collect();
    out.list(&instances, client.now())
}

async fn show(client: &Client, out: &mut Out, instance: String) -> Result<(), Error> {
    let doing = Doing::new(format!("show instance {instance}"), LOOK);
    let request = GetInstanceRequest { instance };
    let found = client
        .read(&doing, async |channel| {
            Instances::new(channel).get_instance(request.clone()).await
        })
        .await?;
    out.one(&Instance::from(found), client.now())
}

/// A name as the wire has it: none is the empty text.
fn text(name: Option<Name>) -> String {
    name.map(|name| name.to_string()).unwrap_or_default()
}

/// Asks for all of them, then waits: they go on side by side. One that is refused doesn't keep
/// the others from being asked for. Programs get an array, however many there are.
async fn change(client: &Client, out: &mut Out, verb: Verb, several: Several) -> Result<(), Error> {
    if several.request_id.is_some() && several.instances.len() > 1 {
        return Err(Error::Usage {
            message: "--request-id names one change, but there are several NAMEs".to_owned(),
            hint: "give one NAME, or leave --request-id out".to_owned(),
        });
    }
    let (mut accepted, mut errors) = (Vec::new(), Vec::new());
    for instance in several.instances {
        let request_id = client.request_id(several.request_id.clone());
        match ask(client, verb, instance, request_id).await {
            Ok(operation) => accepted.push(operation),
            Err(error) => errors.push(error),
        }
    }
    let (operations, ended_badly) = outcomes(client, out, accepted, several.wait).await?;
    if !out.format().is_for_people() {
        out.data(&operations)?;
    }
    errors.extend(ended_badly);
    Error::all(errors)
}

async fn ask(
    client: &Client,
    verb: Verb,
    instance: String,
    request_id: String,
) -> Result<Operation, Error> {
    let doing = |what: &str| Doing::new(format!("{what} instance {instance}"), LOOK);
    let (name, id) = (&instance, &request_id);
    let operation = match verb {
        Verb::Start => {
            let request = || StartInstanceRequest {
                instance: name.clone(),
                request_id: id.clone(),
            };
            let send = async |channel| Instances::new(channel).start_instance(request()).await;
            client.change(&doing("start"), id, send).await
        }
        Verb::Stop => {
            let request = || StopInstanceRequest {
                instance: name.clone(),
                request_id: id.clone(),
            };
            let send = async |channel| Instances::new(channel).stop_instance(request()).await;
            client.change(&doing("stop"), id, send).await
        }
        Verb::Restart => {
            let request = || RestartInstanceRequest {
                instance: name.clone(),
                request_id: id.clone(),
            };
            let send = async |channel| Instances::new(channel).restart_instance(request()).await;
            client.change(&doing("restart"), id, send).await
        }
        Verb::Remove => {
            let request = || DeleteInstanceRequest {
                instance: name.clone(),
                request_id: id.clone(),
                etag: String::new(),
            };
            let send = async |channel| Instances::new(channel).delete_instance(request()).await;
            client.change(&doing("delete"), id, send).await
        }
    };
    operation.map(Operation::from)
}

async fn resized(client: &Client, out: &mut Out, resize: Resize) -> Result<(), Error> {
    let name = resize.instance;
    // What can be missing as well is the flavor.
    let doing = Doing::new(format!("resize instance {name}"), LOOK);
    let request_id = client.request_id(resize.request.request_id);
    let request = ResizeInstanceRequest {
        instance: name.clone(),
        flavor: text(resize.flavor),
        vcpus: resize.vcpus.unwrap_or_default(),
        memory_mib: resize.memory.unwrap_or_default().get(),
        etag: resize.etag,
        request_id: request_id.clone(),
        validate_only: resize.dry_run,
    };
    let accepted = client
        .change(&doing, &request_id, async |channel| {
            Instances::new(channel)
                .resize_instance(request.clone())
                .await
        })
        .await?;
    if resize.dry_run {
        out.remark(&format!("{name} was not resized: this was a dry run"));
        return Ok(());
    }
    finish(client, out, Operation::from(accepted), resize.wait).await
}

async fn explained(client: &Client, out: &mut Out, asked: Explain) -> Result<(), Error> {
    let (doing, question) = match asked.instance {
        Some(name) => (
            Doing::new(format!("explain instance {name}"), LOOK),
            Question::Instance(name),
        ),
        None => (
            Doing::new("explain a new instance", image::LOOK),
            Question::Create(CreateInstanceRequest {
                // The question is about the numbers; any name will do.
                name: "explain".to_owned(),
                image: asked.image.unwrap_or_default(),
                vcpus: asked.size.vcpus(),
                memory_mib: asked.memory.unwrap_or_default().get(),
                root_disk_bytes: asked.size.disk.unwrap_or_default().get(),
                validate_only: true,
                tenant: text(asked.tenant),
                flavor: text(asked.size.flavor),
                needs: asked.needs.wire(),
                ..CreateInstanceRequest::default()
            }),
        ),
    };
    explain(client, out, &doing, question).await
}

/// Says what the fabric and each node answer.
async fn explain(
    client: &Client,
    out: &mut Out,
    doing: &Doing,
    question: Question,
) -> Result<(), Error> {
    let request = ExplainInstanceRequest {
        question: Some(question),
    };
    let answer = client
        .read(doing, async |channel| {
            Instances::new(channel)
                .explain_instance(request.clone())
                .await
        })
        .await?;
    let answer = Explanation::from(answer);
    if out.format().is_for_people() {
        out.raw(answer.text().as_bytes())
    } else {
        out.data(&answer)
    }
}
