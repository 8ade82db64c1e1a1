//! Kubernetes Events, `events.k8s.io/v1`: what a person wants to see in `kubectl describe`.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kubevmm_api::MANAGER_EXECUTOR;
use tokio::sync::mpsc;

/// Events that may wait for the API server; more are dropped, for they are news and not state.
const QUEUE: usize = 256;
/// What the API server accepts, with room for the ellipsis.
const LONGEST_NOTE: usize = 1000;

/// Sends Events in the background. Clones share one queue.
#[derive(Clone)]
pub struct EventRecorder(mpsc::Sender<(Event, ObjectReference)>);

impl EventRecorder {
    /// Starts to send, in the name of the executor on `node`.
    pub fn start(client: Client, node: &str) -> Self {
        let reporter = Reporter { controller: MANAGER_EXECUTOR.into(), instance: Some(node.to_owned()) };
        let recorder = Recorder::new(client, reporter);
        let (sender, mut queue) = mpsc::channel::<(Event, ObjectReference)>(QUEUE);
        tokio::spawn(async move {
            while let Some((event, about)) = queue.recv().await {
                if let Err(error) = recorder.publish(&event, &about).await {
                    tracing::debug!(reason = event.reason, %error, "an Event was not accepted");
                }
            }
        });
        Self(sender)
    }

    /// An Event that nobody has to act on.
    pub fn normal(&self, about: &ObjectReference, action: &str, reason: &str, note: String) {
        self.send(EventType::Normal, about, action, reason, note);
    }

    /// An Event that somebody may have to act on.
    pub fn warning(&self, about: &ObjectReference, action: &str, reason: &str, note: String) {
        self.send(EventType::Warning, about, action, reason, note);
    }

    fn send(&self, type_: EventType, about: &ObjectReference, action: &str, reason: &str, note: String) {
        let note = Some(shortened(note));
        let event = Event { type_, reason: reason.into(), note, action: action.into(), secondary: None };
        if self.0.try_send((event, about.clone())).is_err() {
            tracing::debug!(reason, "the queue of Events is full");
        }
    }
}

fn shortened(mut note: String) -> String {
    if note.len() > LONGEST_NOTE {
        let cut = (0..=LONGEST_NOTE).rev().find(|&end| note.is_char_boundary(end)).unwrap_or(0);
        note.truncate(cut);
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_fits_what_the_api_server_accepts() {
        assert_eq!(shortened("short".into()), "short");
        let long = shortened("ü".repeat(2000));
        assert!(long.len() <= 1024 && long.ends_with('…'));
    }
}
