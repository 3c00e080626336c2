//! A batch's life, from the first look at its file to its end.

use std::{
    fs::File,
    io::BufReader,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use baton_types::{ModelId, RequestId};
use futures::{StreamExt, TryStreamExt, stream};
use rand::Rng;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    BatchId, BatchRecord, Batches, DiskError, Known, disk,
    finish::Ending,
    line::{self, Line},
    output::{Ended, Outputs},
    plan::{self, Planned},
    record::Status,
    unix_time,
    validate::{Rules, validate},
    verdict::{Verdict, judge},
};
use crate::{http, metrics::BatchOutcome, request::Caller, router::Router};

/// When to try again after the disk failed.
const DISK_PAUSE: Duration = Duration::from_secs(5);
/// The clock may be set: how long to trust a look at it.
const CLOCK_TRUST: Duration = Duration::from_secs(60);

/// Carries all batches, those that come included, until it is dropped.
pub(crate) async fn run_all(router: Arc<Router>) {
    let Some(batches) = router.batches.clone() else { return };
    let mut lives = JoinSet::new();
    loop {
        for (record, cancel) in batches.take_up() {
            let life = Life::new(&router, &batches, record, cancel);
            lives.spawn(life.carry());
        }
        tokio::select! {
            () = batches.created.notified() => {}
            Some(ended) = lives.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a batch's task ended early; the next start takes it up");
                }
            }
        }
    }
}

impl Batches {
    /// The batches that nobody carries; from now on the caller does.
    fn take_up(&self) -> Vec<(BatchRecord, CancellationToken)> {
        let mut state = self.lock();
        let known = state.batches.values_mut();
        let new = known.filter(|known| !known.is_carried && !known.record.status.has_ended());
        let take = |known: &mut Known| {
            known.is_carried = true;
            (known.record.clone(), known.cancel.clone())
        };
        new.map(take).collect()
    }
}

/// One batch while it is carried.
pub(super) struct Life {
    pub(super) router: Arc<Router>,
    pub(super) batches: Arc<Batches>,
    /// As it was taken up; only what never changes is looked at.
    pub(super) record: BatchRecord,
    cancel: CancellationToken,
    pub(super) input: PathBuf,
    /// Once there are some.
    outputs: Mutex<Option<Arc<Mutex<Outputs>>>>,
}

impl Life {
    fn new(
        router: &Arc<Router>,
        batches: &Arc<Batches>,
        record: BatchRecord,
        cancel: CancellationToken,
    ) -> Self {
        let (router, batches) = (Arc::clone(router), Arc::clone(batches));
        let input = batches.content(record.input);
        Life { router, batches, record, cancel, input, outputs: Mutex::default() }
    }

    pub(super) fn id(&self) -> BatchId {
        self.record.id
    }

    async fn carry(self) {
        while let Err(error) = self.live().await {
            tracing::warn!(batch = %self.id(), %error, "the disk failed; trying again");
            tokio::time::sleep(DISK_PAUSE).await;
        }
    }

    async fn live(&self) -> Result<(), DiskError> {
        let ending = tokio::select! {
            biased;
            () = self.cancel.cancelled() => Ending::Cancelled,
            () = self.expiry() => Ending::Expired,
            worked = self.work() => worked?,
        };
        let status = self.finish(ending).await?;
        tracing::info!(batch = %self.id(), %status, "batch ended");
        Ok(())
    }

    async fn expiry(&self) {
        while let Some(left @ 1..) = self.record.expires_at.checked_sub(unix_time()) {
            tokio::time::sleep(Duration::from_secs(left).min(CLOCK_TRUST)).await;
        }
    }

    /// Everything, unless it ends early.
    async fn work(&self) -> Result<Ending, DiskError> {
        let status = self.batches.batch(&self.id().to_string()).map(|record| record.status);
        if matches!(status, Ok(Status::Validating)) && !self.validate().await? {
            return Ok(Ending::Failed);
        }
        let _turn = self.batches.turns.acquire().await;
        let (input, plan) = self.plan().await?;
        tracing::info!(batch = %self.id(), lines = plan.len(), "running a batch");
        let at_once = self.batches.config.max_running as usize;
        let lines = stream::iter(plan).map(|planned| self.run(&input, planned));
        lines.buffer_unordered(at_once).try_for_each(|()| std::future::ready(Ok(()))).await?;
        Ok(Ending::Completed)
    }

    /// Says whether the file can be run, and notes why not.
    async fn validate(&self) -> Result<bool, DiskError> {
        // Who hasn't seen any node yet can't tell which models there are.
        let mut ready = self.router.cluster.watch_ready();
        let _ = ready.wait_for(|ready| *ready).await;
        let (input, endpoint) = (self.input.clone(), self.record.endpoint);
        let (router, max_lines) = (Arc::clone(&self.router), self.batches.config.max_lines);
        let valid = disk::blocking(move || {
            let is_served = |model: &str| router.cluster.served(&ModelId::from(model)).is_some();
            let max_bytes = usize::try_from(router.config.limits.max_body.0).unwrap_or(usize::MAX);
            let rules = Rules { endpoint, max_lines, max_bytes, is_served: &is_served };
            validate(&input, &rules)
        })
        .await?;
        let is_valid = valid.is_ok();
        let change = |record: &mut BatchRecord| {
            // It may have been cancelled meanwhile.
            let status = if is_valid { Status::InProgress } else { Status::Failed };
            if record.status == Status::Validating {
                record.enter(status, unix_time());
            }
            match valid {
                Ok(lines) => record.counts.total = lines,
                Err(errors) => record.errors = errors,
            }
        };
        self.batches.update(self.id(), change).await?;
        Ok(is_valid)
    }

    /// The lines that are still to run, in their order.
    async fn plan(&self) -> Result<(Arc<File>, Vec<Planned>), DiskError> {
        let outputs = self.outputs().await?;
        let (input, endpoint) = (self.input.clone(), self.record.endpoint);
        let (batches, id) = (Arc::clone(&self.batches), self.id());
        disk::blocking(move || {
            let file = File::open(&input).map_err(DiskError::at(&input))?;
            let outputs = outputs.lock().unwrap_or_else(PoisonError::into_inner);
            let mut plan = Vec::new();
            line::split(BufReader::new(&file), usize::MAX - 1, |raw| {
                let line = raw.bytes.and_then(|bytes| line::parse(bytes, endpoint).ok());
                if let Some(line) = line.filter(|line| !outputs.is_done(&line.custom_id)) {
                    plan.push(Planned::new(raw.span, &line, endpoint));
                }
                true
            })
            .map_err(DiskError::at(&input))?;
            plan::order(&mut plan);
            batches.count(id, &outputs);
            Ok((Arc::new(file), plan))
        })
        .await
    }

    /// Runs one line to its end.
    async fn run(&self, input: &Arc<File>, planned: Planned) -> Result<(), DiskError> {
        let Some(line) = self.read(input, planned.span).await? else { return Ok(()) };
        let mut failures = 0;
        loop {
            let place = self.batches.places.acquire().await;
            let running = self.router.metrics.batch_line();
            let request = RequestId(rand::rng().random());
            let caller = Caller::of_batch(request, self.id().to_string());
            let body = line.body.clone();
            let reply = http::answer_line(&self.router, self.record.endpoint, caller, body).await;
            drop((running, place));
            match judge(&reply, failures) {
                Verdict::Done => {
                    let (status, body) = (reply.status, reply.body);
                    return self.note(line, Ended::Answered { status, request, body }).await;
                }
                Verdict::Again { after } => {
                    failures += u32::from(reply.status == 503);
                    tokio::time::sleep(after).await;
                }
            }
        }
    }

    async fn read(&self, input: &Arc<File>, span: line::Span) -> Result<Option<Line>, DiskError> {
        let (input, path, endpoint) = (Arc::clone(input), self.input.clone(), self.record.endpoint);
        disk::blocking(move || {
            let mut bytes = vec![0; span.length];
            input.read_exact_at(&mut bytes, span.offset).map_err(DiskError::at(path))?;
            Ok(line::parse(&bytes, endpoint).ok())
        })
        .await
    }

    async fn note(&self, line: Line, ended: Ended) -> Result<(), DiskError> {
        let outputs = self.outputs().await?;
        let number = self.batches.lock().next_number();
        let outcome = if ended.is_ok() { BatchOutcome::ok } else { BatchOutcome::failed };
        let (batches, id) = (Arc::clone(&self.batches), self.id());
        let is_new = disk::blocking(move || {
            let mut outputs = outputs.lock().unwrap_or_else(PoisonError::into_inner);
            let is_new = outputs.note(&line.custom_id, &ended, number)?;
            outputs.flush()?;
            batches.count(id, &outputs);
            Ok(is_new)
        });
        if is_new.await? {
            self.router.metrics.batch_lines(outcome, 1);
        }
        Ok(())
    }

    /// The same for the batch's whole life: what one knows is done, all do.
    pub(super) async fn outputs(&self) -> Result<Arc<Mutex<Outputs>>, DiskError> {
        let lock = || self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outputs) = lock().as_ref() {
            return Ok(Arc::clone(outputs));
        }
        let paths = [self.record.output, self.record.error].map(|file| self.batches.content(file));
        let opened = disk::blocking(move || Outputs::open(&paths[0], &paths[1])).await?;
        Ok(Arc::clone(lock().get_or_insert_with(|| Arc::new(Mutex::new(opened)))))
    }
}
