//! Kubernetes Events: told in the background, never waited for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use kubevmm_api::MANAGER_CONTROLLER;
use tokio::sync::mpsc;

/// Longest note that the API server takes.
const LONGEST_NOTE: usize = 1000;

/// Sends Events to the API server.
#[derive(Debug, Clone)]
pub struct Events {
    queue: mpsc::Sender<(Event, ObjectReference)>,
}

impl Events {
    /// Starts the task that sends. `pod` is the name of this pod.
    pub fn start(client: Client, pod: Option<String>) -> Self {
        let (queue, mut waiting) = mpsc::channel::<(Event, ObjectReference)>(1024);
        let recorder = Recorder::new(client, Reporter { controller: MANAGER_CONTROLLER.into(), instance: pod });
        tokio::spawn(async move {
            while let Some((event, about)) = waiting.recv().await {
                if let Err(error) = recorder.publish(&event, &about).await {
                    tracing::debug!(reason = event.reason, %error, "an Event was not accepted");
                }
            }
        });
        Self { queue }
    }

    /// Sends an Event about `object`. One too many is dropped: Events are for people, and the conditions say it too.
    pub fn send<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        warning: bool,
        action: &str,
        reason: &str,
        mut note: String,
    ) {
        if note.len() > LONGEST_NOTE {
            let end = (0..=LONGEST_NOTE).rev().find(|&at| note.is_char_boundary(at)).unwrap_or(0);
            note.truncate(end);
        }
        let event = Event {
            type_: if warning { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            note: Some(note),
            action: action.to_owned(),
            secondary: None,
        };
        if self.queue.try_send((event, object.object_ref(&()))).is_err() {
            tracing::debug!(reason, "the queue of Events is full");
        }
    }

    /// Sends an Event that needs somebody's attention.
    pub fn warning<K: Resource<DynamicType = ()>>(&self, object: &K, action: &str, reason: &str, note: String) {
        self.send(object, true, action, reason, note);
    }
}

/// The last notice about each object that has no status to say it in.
#[derive(Debug, Default)]
pub struct Notices {
    last: Mutex<HashMap<String, String>>,
}

impl Notices {
    /// Whether `notice` is not what was last said about the object `uid`.
    pub fn is_news(&self, uid: &str, notice: &str) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.insert(uid.to_owned(), notice.to_owned()).as_deref() != Some(notice)
    }

    /// The object is gone.
    pub fn forget(&self, uid: &str) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}
