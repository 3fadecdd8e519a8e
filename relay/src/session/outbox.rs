//! The out-queue of one connection: whole frames, bounded in bytes. Whoever pushes never waits; the socket's writer drains.
//!
//! A full queue ends the connection (a slow reader costs only itself). Stored reads do not push into a full queue: they
//! wait for [`Outbox::room`], so only what happens live can overflow.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::index::Found;
use crate::metrics::{Close, Metrics};
use crate::visibility::Permit;

/// One WebSocket message to a client.
#[derive(Debug, Clone)]
pub enum Frame {
    /// A text message, ready to send.
    Text(Bytes),
    /// An EVENT: the subscription's prefix, the event's own bytes, `]`.
    Event {
        /// `["EVENT",<subscription>,`, shared by all events of a subscription.
        prefix: Bytes,
        /// The event's JSON, shared by all subscribers.
        json: Bytes,
    },
    /// A WebSocket ping.
    Ping,
}

impl Frame {
    /// Bytes of payload.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Event { prefix, json } => prefix.len() + json.len() + 1,
            Self::Ping => 0,
        }
    }

    /// Whether there is no payload.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A stored read fills a queue to no more than this many bytes, or half of the queue: many clients that ask for much and
/// read nothing must not cost a full queue each.
const STORED_AHEAD: usize = 256 * 1024;

/// What the writer does next.
#[derive(Debug)]
pub enum Next {
    /// Send these, then call [`Outbox::written`] with their bytes.
    Frames(Vec<Frame>),
    /// Close the connection for this reason; nothing more will come.
    End(Close),
}

/// What one stored read may push: reads of one connection at the same time share its queue. Hold it until after the push.
#[derive(Debug)]
pub struct Room {
    outbox: Outbox,
    bytes: usize,
}

impl Room {
    /// Bytes that may be pushed.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.outbox.lock().promised -= self.bytes;
        self.outbox.inner.drained.notify_waiters();
    }
}

/// A shared handle on the out-queue of one connection.
#[derive(Debug, Clone)]
pub struct Outbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    queue: Mutex<Queue>,
    limit: usize,
    /// Wakes the writer.
    filled: Notify,
    /// Wakes stored reads that wait for room.
    drained: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Frame>,
    /// Bytes queued or being written.
    bytes: usize,
    /// Bytes that stored reads under way may still push.
    promised: usize,
    end: Option<Close>,
}

impl Outbox {
    /// An empty queue that holds at most `limit` bytes.
    pub fn new(limit: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            inner: Arc::new(Inner {
                queue: Mutex::default(),
                limit,
                filled: Notify::new(),
                drained: Notify::new(),
                metrics,
            }),
        }
    }

    /// Queues an answer that is not an event.
    pub fn push_text(&self, text: Bytes) {
        self.push(Frame::Text(text));
    }

    /// Queues a live event. The permit says that the read door was asked for this client.
    pub fn push_live(&self, _permit: Permit, prefix: &Bytes, json: &Bytes) {
        self.push(Frame::Event {
            prefix: prefix.clone(),
            json: json.clone(),
        });
    }

    /// Queues stored events, which the index found for this client's readers, and perhaps EOSE, in one go. They never
    /// overflow the queue: stored reads push no more than their [`Room`], but for the last event of a batch.
    pub fn push_stored(&self, prefix: &Bytes, found: &[&Found], eose: Option<Bytes>) {
        let events = found.iter().map(|event| Frame::Event {
            prefix: prefix.clone(),
            json: event.json.clone(),
        });
        let mut queue = self.lock();
        if queue.end.is_some() {
            return;
        }
        let mut bytes = 0;
        for frame in events.chain(eose.map(Frame::Text)) {
            bytes += frame.len();
            queue.frames.push_back(frame);
        }
        queue.bytes += bytes;
        drop(queue);
        self.inner.metrics.out_queue_bytes.inc_by(as_gauge(bytes));
        self.inner.filled.notify_one();
    }

    /// Queues a ping.
    pub fn push_ping(&self) {
        self.push(Frame::Ping);
    }

    /// Ends the connection once what is queued has been written. The first reason given stays.
    pub fn end(&self, reason: Close) {
        let mut queue = self.lock();
        if queue.end.is_none() {
            queue.end = Some(reason);
        }
        drop(queue);
        self.wake_all();
    }

    /// Whether the connection is to end, so that nothing pushed any more will be sent.
    pub fn is_ended(&self) -> bool {
        self.lock().end.is_some()
    }

    /// Waits until a stored read may push. `None`: the connection is ending, stop.
    pub async fn room(&self) -> Option<Room> {
        loop {
            let drained = self.inner.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            {
                let mut queue = self.lock();
                if queue.end.is_some() {
                    return None;
                }
                let (limit, used) = (self.stored_limit(), queue.bytes + queue.promised);
                if used <= limit / 2 {
                    let bytes = (limit - used).min(limit / 2);
                    queue.promised += bytes;
                    return Some(Room {
                        outbox: self.clone(),
                        bytes,
                    });
                }
            }
            drained.await;
        }
    }

    /// For the writer: waits for frames, at most about `max_bytes` of them, or for the end.
    pub async fn next(&self, max_bytes: usize) -> Next {
        loop {
            let filled = self.inner.filled.notified();
            {
                let mut queue = self.lock();
                if queue.end == Some(Close::slow_reader) {
                    return Next::End(Close::slow_reader);
                }
                if !queue.frames.is_empty() {
                    return Next::Frames(take(&mut queue, max_bytes));
                }
                if let Some(reason) = queue.end {
                    return Next::End(reason);
                }
            }
            filled.await;
        }
    }

    /// For the writer: resolves when the queue has overflowed, also while a write is stuck.
    pub async fn overflowed(&self) {
        loop {
            let filled = self.inner.filled.notified();
            if self.lock().end == Some(Close::slow_reader) {
                return;
            }
            filled.await;
        }
    }

    /// For the writer: `bytes` of frames taken by [`Outbox::next`] were handed to the operating system.
    pub fn written(&self, bytes: usize) {
        let mut queue = self.lock();
        let bytes = bytes.min(queue.bytes);
        queue.bytes -= bytes;
        drop(queue);
        self.inner.metrics.out_queue_bytes.dec_by(as_gauge(bytes));
        self.inner.drained.notify_waiters();
    }

    fn stored_limit(&self) -> usize {
        STORED_AHEAD.min(self.inner.limit / 2)
    }

    fn push(&self, frame: Frame) {
        let len = frame.len();
        let mut queue = self.lock();
        if queue.end.is_some() {
            return;
        }
        // A single frame always fits into an empty queue, else a large event could never be sent.
        if queue.bytes > 0 && queue.bytes + len > self.inner.limit {
            self.overflow(queue);
            return;
        }
        queue.bytes += len;
        queue.frames.push_back(frame);
        drop(queue);
        self.inner.metrics.out_queue_bytes.inc_by(as_gauge(len));
        self.inner.filled.notify_one();
    }

    fn overflow(&self, mut queue: MutexGuard<'_, Queue>) {
        let dropped: usize = queue.frames.iter().map(Frame::len).sum();
        queue.frames = VecDeque::new();
        queue.bytes -= dropped;
        queue.end = Some(Close::slow_reader);
        drop(queue);
        self.inner.metrics.out_queue_bytes.dec_by(as_gauge(dropped));
        self.wake_all();
    }

    fn wake_all(&self) {
        self.inner.filled.notify_one();
        self.inner.drained.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.inner
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let queue = self.queue.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.metrics.out_queue_bytes.dec_by(as_gauge(queue.bytes));
    }
}

fn take(queue: &mut Queue, max_bytes: usize) -> Vec<Frame> {
    let mut taken = Vec::new();
    let mut bytes = 0;
    while let Some(frame) = queue.frames.pop_front() {
        bytes += frame.len();
        taken.push(frame);
        if bytes >= max_bytes {
            break;
        }
    }
    if queue.frames.is_empty() {
        // An idle connection keeps no queue memory.
        queue.frames = VecDeque::new();
    }
    taken
}

fn as_gauge(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn text(len: usize) -> Bytes {
        Bytes::from(vec![b'x'; len])
    }

    #[tokio::test]
    async fn frames_come_out_in_order_and_in_batches() {
        let metrics = Arc::new(Metrics::new());
        let outbox = Outbox::new(1000, metrics.clone());
        for len in [10, 20, 30] {
            outbox.push_text(text(len));
        }
        assert_eq!(metrics.out_queue_bytes.get(), 60);
        let Next::Frames(frames) = outbox.next(25).await else {
            panic!("frames")
        };
        assert_eq!(frames.iter().map(Frame::len).collect::<Vec<_>>(), [10, 20]);
        outbox.written(30);
        assert_eq!(metrics.out_queue_bytes.get(), 30);
        drop(outbox);
        assert_eq!(metrics.out_queue_bytes.get(), 0);
    }

    #[tokio::test]
    async fn an_overflow_drops_the_queue_and_ends_the_connection() {
        let outbox = Outbox::new(100, Arc::new(Metrics::new()));
        outbox.push_text(text(400));
        assert!(!outbox.is_ended(), "one frame always fits");
        outbox.push_text(text(1));
        outbox.overflowed().await;
        assert!(matches!(
            outbox.next(10).await,
            Next::End(Close::slow_reader)
        ));
        assert!(outbox.room().await.is_none());
        outbox.push_text(text(1));
        assert!(matches!(
            outbox.next(10).await,
            Next::End(Close::slow_reader)
        ));
    }

    #[tokio::test]
    async fn an_orderly_end_comes_after_what_was_queued() {
        let outbox = Outbox::new(100, Arc::new(Metrics::new()));
        outbox.push_text(text(5));
        outbox.end(Close::drain);
        assert!(matches!(outbox.next(10).await, Next::Frames(_)));
        assert!(matches!(outbox.next(10).await, Next::End(Close::drain)));
    }

    #[tokio::test]
    async fn a_stored_read_waits_until_it_may_push_much() {
        let outbox = Outbox::new(100, Arc::new(Metrics::new()));
        outbox.push_text(text(80));
        let waiting = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        outbox.written(60);
        let room = waiting.await.expect("the task").expect("an open queue");
        assert_eq!(room.bytes(), 25);
    }

    #[tokio::test]
    async fn stored_reads_at_the_same_time_share_the_queue() {
        let outbox = Outbox::new(1000, Arc::new(Metrics::new()));
        let mut rooms: Vec<Room> = (0..20)
            .filter_map(|_| outbox.room().now_or_never().flatten())
            .collect();
        let bytes: usize = rooms.iter().map(Room::bytes).sum();
        assert!(bytes > 0 && bytes <= 500, "{bytes}");
        let mut next = Box::pin(outbox.room());
        assert!((&mut next).now_or_never().is_none());
        rooms.pop();
        assert!(next.await.is_some(), "a read that ended makes room");
    }
}
