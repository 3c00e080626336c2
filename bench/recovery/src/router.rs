//! A router goes away, and its streams go on at the other one.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use baton_client::{Client, Event, Request, Stream};
use baton_tests::Apart;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    Cli, DECODE, Fate, LATER, OUTPUT, PATIENCE, PREFILL, PROFILE, Shared, WAITS, Waited, look,
    mend, millis, strike, until,
};

const VICTIM: &str = "router";

pub(super) async fn one_round(
    cluster: &mut Apart,
    cli: &Cli,
    event: Fate,
    round: u32,
) -> anyhow::Result<Vec<Waited>> {
    let client = Client::new(cluster.urls())?;
    let (mut tasks, mut running) = (JoinSet::new(), Vec::new());
    for seed in (0..cli.streams).map(|at| round * 1000 + at) {
        let answer = Shared::default();
        running.push(Arc::clone(&answer));
        let prompt = super::prompt(cli.prompt, seed);
        let request = Request::tokens("sim", prompt).max_tokens(OUTPUT).seed(seed.into());
        tasks.spawn(read(client.stream(request).await?, answer));
    }
    until("all decode", || running.iter().all(|answer| look(answer, |a| a.tokens.len() > 20)))
        .await?;
    sleep(Duration::from_millis(u64::from(round % 7) * 13)).await;
    let began = Instant::now();
    strike(cluster, VICTIM, event)?;
    until("everybody goes on", || {
        running
            .iter()
            .all(|answer| look(answer, |a| a.is_over || a.tokens.last() > Some(&(began + LATER))))
    })
    .await?;
    let mut waited: Vec<(f64, u32)> = Vec::new();
    for answer in &running {
        look(answer, |answer| {
            let gap = answer.tokens.windows(2).enumerate().find(|(_, pair)| {
                pair[1] > began && pair[1] - pair[0] > WAITS && pair[0] < began + WAITS
            });
            if let Some((at, pair)) = gap {
                waited.push((millis(pair[1] - pair[0]), cli.prompt + at as u32 + 1));
            }
        });
    }
    let tokens: u32 = waited.iter().map(|(_, tokens)| tokens).sum();
    let [(_, step), (_, token), _] = PROFILE;
    let replay = (f64::from(tokens) * token / f64::from(PREFILL) + step) / 1e3;
    // The client pings a router that it hears nothing of, and takes it for gone when that isn't answered.
    let detection = match event {
        Fate::Killed => 0.0,
        Fate::Stopped | Fate::CutOff => millis(2 * Client::KEEP_ALIVE),
    };
    drop(tasks);
    mend(cluster, VICTIM, event)?;
    until("it is back", || {
        cluster.members().is_ok_and(|nodes| nodes == (PREFILL + DECODE) as usize)
    })
    .await?;
    cluster.wait_whole(PATIENCE)?;
    Ok(waited.into_iter().map(|(pause, _)| Waited { pause, detection, replay }).collect())
}

async fn read(mut stream: Stream, answer: Shared) {
    while let Some(Ok(event)) = stream.next().await {
        let now = Instant::now();
        let mut answer = answer.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Chunk(chunk) => answer.tokens.extend(chunk.token_ids.iter().map(|_| now)),
            Event::Complete(_) => answer.is_over = true,
            Event::Started(_) => {}
        }
    }
}
