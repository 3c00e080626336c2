//! When is a cluster ready? When each router knows every node and answers for a model.

use std::time::{Duration, Instant};

use tokio::time;

use super::{UpError, children::Children, plan::Plan};
use crate::client::Client;

/// A big model from a slow disk takes its time.
const PATIENCE: Duration = Duration::from_secs(300);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Waits until every node has registered with every router; the first one's client. A child that ends
/// meanwhile ends the wait at once.
pub(super) async fn wait(plan: &Plan, children: &mut Children) -> Result<Client, UpError> {
    let started = Instant::now();
    let urls = plan.urls();
    let first = wait_for(&urls[0], plan, children, started).await?;
    for url in &urls[1..] {
        wait_for(url, plan, children, started).await?;
    }
    Ok(first)
}

async fn wait_for(
    url: &str,
    plan: &Plan,
    children: &mut Children,
    started: Instant,
) -> Result<Client, UpError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let seen = match look(url, plan).await {
            Look::Ready(client) => return Ok(client),
            Look::NotYet(seen) => seen,
        };
        if started.elapsed() > PATIENCE {
            let logs = children.logs().to_path_buf();
            return Err(UpError::NotReady { waited: PATIENCE, seen, logs });
        }
        tokio::select! {
            () = time::sleep(pause) => {}
            ended = children.first_to_end() => return Err(UpError::ChildEnded(ended)),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

enum Look {
    Ready(Client),
    NotYet(String),
}

async fn look(url: &str, plan: &Plan) -> Look {
    let Ok(mut client) = Client::connect(url).await else {
        return Look::NotYet(format!("the router at {url} doesn't answer"));
    };
    let models = match client.models().await {
        Ok(models) => models,
        Err(error) => return Look::NotYet(error.to_string()),
    };
    let prefill: u32 = models.iter().map(|model| model.prefill_nodes).sum();
    let decode: u32 = models.iter().map(|model| model.decode_nodes).sum();
    if prefill >= plan.prefill && decode >= plan.decode {
        return Look::Ready(client);
    }
    Look::NotYet(format!(
        "{prefill} of {} prefill nodes and {decode} of {} decode nodes have registered",
        plan.prefill, plan.decode
    ))
}
