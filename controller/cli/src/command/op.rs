//! `kapok op …`

use kapok_proto::fabric::v1::{
    CancelOperationRequest, GetOperationRequest, ListOperationsRequest,
    operation_service_client::OperationServiceClient as Operations,
};
use tokio::time::Instant;

use super::finish;
use crate::{
    args::op::Command,
    client::{Client, PAGE, pages},
    error::{Doing, Error},
    output::Out,
    progress::Progress,
    view::operation::Operation,
    wait,
};

const LOOK: &str = "kapok op ls";

/// Does it.
pub(super) async fn run(client: &Client, out: &mut Out, command: Command) -> Result<(), Error> {
    match command {
        Command::Ls { instance, running } => {
            list(client, out, instance.unwrap_or_default(), running).await
        }
        Command::Show { id } => {
            let operation = get(client, id).await?;
            out.one(&operation, client.now())
        }
        Command::Watch { id } => watch(client, out, id).await,
        Command::Cancel { id, wait, request } => {
            let doing = Doing::new(format!("cancel operation {id}"), LOOK);
            let request_id = client.request_id(request.request_id);
            let request = CancelOperationRequest {
                operation: id,
                request_id: request_id.clone(),
            };
            let operation = client
                .change(&doing, &request_id, async |channel| {
                    Operations::new(channel)
                        .cancel_operation(request.clone())
                        .await
                })
                .await?;
            cancelled(client, out, Operation::from(operation), wait).await
        }
    }
}

/// A cancel that leads to *cancelled* did what was asked, so that is no failure here.
async fn cancelled(
    client: &Client,
    out: &mut Out,
    operation: Operation,
    wait: bool,
) -> Result<(), Error> {
    let deadline = Instant::now() + client.wait();
    let operation = if wait {
        let progress = Progress::steps(out.is_quiet());
        wait::until_ended(client, operation, &progress, deadline, |_| Ok(())).await?
    } else {
        operation
    };
    if !out.format().is_for_people() {
        out.data(&operation)
    } else if operation.has_ended() {
        out.line(&operation.ending())
    } else {
        out.line(&format!("{}: asked to end", operation.id_text()))
    }
}

async fn get(client: &Client, id: String) -> Result<Operation, Error> {
    let doing = Doing::new(format!("show operation {id}"), LOOK);
    let request = GetOperationRequest { operation: id };
    let operation = client
        .read(&doing, async |channel| {
            Operations::new(channel)
                .get_operation(request.clone())
                .await
        })
        .await?;
    Ok(Operation::from(operation))
}

async fn list(
    client: &Client,
    out: &mut Out,
    instance: String,
    running_only: bool,
) -> Result<(), Error> {
    let doing = Doing::new("list operations", super::instance::LOOK);
    let operations = pages(&doing, async |page_token| {
        let instance = instance.clone();
        let request = ListOperationsRequest {
            instance,
            running_only,
            page_size: PAGE,
            page_token,
        };
        let page = client
            .read(&doing, async |channel| {
                Operations::new(channel)
                    .list_operations(request.clone())
                    .await
            })
            .await?;
        Ok((page.operations, page.next_page_token))
    })
    .await?;
    let operations: Vec<_> = operations.into_iter().map(Operation::from).collect();
    out.list(&operations, client.now())
}

async fn watch(client: &Client, out: &mut Out, id: String) -> Result<(), Error> {
    let operation = get(client, id).await?;
    if out.format().is_for_people() {
        return finish(client, out, operation, true).await;
    }
    if operation.has_ended() {
        out.record(&operation)?;
    }
    let deadline = Instant::now() + client.wait();
    // Programs read the changes; a bar between them would help nobody.
    let progress = Progress::steps(true);
    let seen = |change: &Operation| out.record(change);
    let operation = wait::until_ended(client, operation, &progress, deadline, seen).await?;
    wait::success(&operation)
}
