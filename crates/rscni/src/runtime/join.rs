//! Several operations at the same time: on threads, or in one async task.

use std::{
    sync::{Mutex, PoisonError},
    thread,
};

use super::ready;

/// Runs futures that are ready at their first poll, each on a thread. Returns their outputs in
/// order.
///
/// The calling thread takes part. If no more threads can be started, fewer threads do the work.
pub(super) fn on_threads<F>(futures: Vec<F>) -> Vec<F::Output>
where
    F: Future + Send,
    F::Output: Send,
{
    let count = futures.len();
    let outputs: Vec<_> = futures.iter().map(|_| Mutex::new(None)).collect();
    let queue = Mutex::new(futures.into_iter().zip(&outputs));
    let work = || loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some((future, output)) = next else { return };
        let value = ready(future);
        *output.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    };
    thread::scope(|scope| {
        for _ in 1..count {
            if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    drop(queue);
    let value = |output: Mutex<_>| output.into_inner().unwrap_or_else(PoisonError::into_inner);
    outputs.into_iter().filter_map(value).collect()
}

/// Awaits futures at the same time. Returns their outputs in order.
#[cfg(feature = "async")]
pub(super) async fn in_one_task<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    use std::task::Poll;

    let mut pending: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, output) in &mut pending {
            if output.is_none()
                && let Poll::Ready(value) = future.as_mut().poll(context)
            {
                *output = Some(value);
            }
        }
        let is_ready = pending.iter().all(|(_, output)| output.is_some());
        if is_ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    pending.into_iter().filter_map(|(_, output)| output).collect()
}
