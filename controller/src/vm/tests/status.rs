//! What is written, and what is left alone.

use super::*;
use kubevmm_api::VirtualMachineStatus;

#[test]
fn once_settled_there_is_nothing_to_write() {
    let settled = |mut view: View| {
        for _ in 0..3 {
            let (steps, wanted) = outcome(&view);
            assert_eq!(steps, Vec::<String>::new());
            let Some(patch) = wanted.unwrap().over(&view.vm, &Time(Timestamp::UNIX_EPOCH)) else { return };
            let mut vm = serde_json::to_value(view.vm.as_ref()).unwrap();
            merge(&mut vm["status"], patch);
            view.vm = Arc::new(serde_json::from_value(vm).unwrap());
        }
        panic!("it writes without end: {:?}", view.vm.status);
    };
    for status in [placed(ACTIVE), placed("")] {
        settled(view("", &status).pods(&[running(1, "a")]));
    }
    let domain = "uuid: 0a000000-0000-4000-8000-000000000001";
    settled(view(&format!("management: Observe, existingDomain: {{nodeName: a, {domain}}}"), &placed(ACTIVE)));
    settled(view(&format!("runStrategy: Halted, existingDomain: {{nodeName: a, {domain}}}"), ""));
    settled(view(&format!("existingDomain: {{nodeName: c, {domain}}}"), ""));
}

fn merge(into: &mut Value, from: Value) {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
}

#[test]
fn a_request_to_stop_what_is_off_is_answered() {
    let manual = "runStrategy: Manual, powerRequest: {id: r, action: Stop}";
    let shown = outcome(&view(manual, "")).1.unwrap().shown.unwrap();
    let answer = serde_json::to_value(shown.power).unwrap();
    assert_eq!(answer, json!({"id": "r", "action": "Stop", "result": "AlreadyDone"}));
    let answered: VirtualMachineStatus = serde_json::from_value(json!({"lastPowerRequest": answer})).unwrap();
    let told = |before: &VirtualMachineStatus| {
        let events = crate::vm::status::transitions(before, &answered);
        events.into_iter().map(|event| (event.warning, event.reason)).collect::<Vec<_>>()
    };
    assert_eq!(told(&VirtualMachineStatus::default()), [(false, "PowerRequestAlreadyDone".to_owned())]);
    assert_eq!(told(&answered), [], "told once");
}

#[test]
fn a_pod_that_the_api_server_refuses_is_told() {
    let mut view = view("", "");
    view.pod_pause = Some(("PodRefused", "exceeded quota".into()));
    let (steps, status) = outcome(&view);
    assert_eq!((steps, scheduled(&status).1, scheduled(&status).2.as_str()), (vec![], "PodRefused", "exceeded quota"));
}

#[test]
fn what_the_executor_has_taken_is_left_to_it() {
    let managed = |fields: &str| {
        let mut view = view(
            "",
            &placed(
                "printableStatus: Running, observedGeneration: 1, conditions: [{type: Ready, status: 'True', reason: Running, message: '', lastTransitionTime: \"2026-01-01T00:00:00Z\"}]",
            ),
        );
        let entry: VirtualMachine = yaml(&format!(
            "metadata: {{name: x, managedFields: [{{manager: kubevmm-executor, subresource: status, fieldsV1: {{'f:status': {fields}}}}}]}}\nspec: {{}}"
        ));
        Arc::make_mut(&mut view.vm).metadata.managed_fields = entry.metadata.managed_fields;
        let wanted = StatusWanted { node_name: Some("b".into()), ..StatusWanted::keep(&view.status()) };
        wanted.over(&view.vm, &Time(Timestamp::UNIX_EPOCH)).unwrap()
    };
    let fields = |leaves: &str| {
        format!(
            "{{'f:printableStatus': {{}}, 'f:observedGeneration': {{}}, 'f:conditions': {{'k:{{\"type\":\"Ready\"}}': {{{leaves}}}}}}}"
        )
    };
    let patch = managed(&fields("'f:status': {}, 'f:reason': {}, 'f:message': {}, 'f:lastTransitionTime': {}"));
    assert_eq!((patch.get("printableStatus"), &patch["conditions"]), (None, &json!([])));
    let patch = managed(&fields("'f:type': {}"));
    assert_eq!(patch["conditions"][0]["reason"], "Running", "its values were forced on it: they are ours");
    let patch = managed("{}");
    assert_eq!((&patch["printableStatus"], &patch["conditions"][0]["type"]), (&json!("Running"), &json!("Ready")));
}
