#!/bin/bash
# demo.sh: the main job, on a real cluster on this machine: install KubeVMM, apply a VM, log in to the guest.
# `make demo` builds what this needs and runs it; `make demo-down` takes everything away again.
#
#   LAB_KUBECONFIG   install on this existing cluster instead of a lab (and start no VM there)
#                    where it gets the images from, yamls/ says: see `make yamls REGISTRY=…`
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

started=$SECONDS
say() { printf '\n[%3d s] %s\n' $((SECONDS - started)) "$*"; }
die() { printf '\ndemo: %s\n' "$*" >&2; exit 1; }
# Output of a step is shown only if it fails.
quietly() { local log; log=$(mktemp); if ! "$@" >"$log" 2>&1; then cat "$log" >&2; rm -f "$log"; die "failed: $*"; fi; rm -f "$log"; }

programs=$(readlink -m "${CARGO_TARGET_DIR:-target}")/release
lab=$programs/lab
virtctl=$programs/virtctl

# The manifests, and wait until controller and executors are there.
install_on() { # install_on KUBECTL..
  "$@" apply -f yamls/ >/dev/null
  rolled_out deployment/kubevmm-controller "$@"
  rolled_out deployment/kubevmm-scheduler "$@"
  rolled_out daemonset/kubevmm-executor "$@"
  "$@" wait hypervisors.kubevmm.io --all --for=create --timeout=60s >/dev/null
}

# Waits until all pods are there; stops as soon as a node says that it cannot have an image.
rolled_out() { # rolled_out KIND/NAME KUBECTL..
  local what=$1 deadline=$((SECONDS + 180)) missing
  shift
  until "$@" -n kubevmm-system rollout status "$what" --timeout=5s >/dev/null 2>&1; do
    missing=$(images_missing "$@")
    [ -z "$missing" ] || die "nodes that cannot have their image:
$missing
Import the archives on every node (ctr -n k8s.io images import out/images/NAME.tar) and give your kube-scheduler's image the
name kubevmm/kube-scheduler:0.1.0 there (ctr -n k8s.io images tag), or push them to a registry and say where they are with \`make yamls REGISTRY=…\`; see README.md. Then run this again."
    [ $SECONDS -lt $deadline ] || die "$what is not there after 180 s: look at \`kubectl -n kubevmm-system describe pods\`"
  done
}

# "NODE IMAGE REASON", a line each. A list of what nodes have would not do: a node reports its largest 50 images only.
# A pull that has failed once (ErrImagePull) is tried again; after that it backs off.
images_missing() { # images_missing KUBECTL..
  "$@" -n kubevmm-system get pods -o jsonpath='{range .items[*]}{.spec.nodeName}{range .status.initContainerStatuses[*]} {.image}={.state.waiting.reason}{end}{range .status.containerStatuses[*]} {.image}={.state.waiting.reason}{end}{"\n"}{end}' |
    awk '{ for (i = 2; i <= NF; i++) { split($i, of, "="); if (of[2] ~ /^(ErrImageNeverPull|ImagePullBackOff|InvalidImageName)$/) print "  " $1 " " of[1] " " of[2] } }' | sort -u
}

# No pod of the installation runs the image of the placement pods: one on each node shows whether it is there.
try_pause() { # try_pause KUBECTL..
  local image
  image=$(sed -n 's/.*KUBEVMM_PAUSE_IMAGE, value: "\(.*\)".*/\1/p' yamls/40-controller.yaml)
  "$@" apply -f - >/dev/null <<YAML
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: kubevmm-try-pause, namespace: kubevmm-system}
spec:
  selector: {matchLabels: {app: kubevmm-try-pause}}
  template:
    metadata: {labels: {app: kubevmm-try-pause}}
    spec:
      automountServiceAccountToken: false
      nodeSelector: {kubernetes.io/os: linux}
      tolerations: [{operator: Exists}]
      terminationGracePeriodSeconds: 0
      containers: [{name: pause, image: "$image", imagePullPolicy: IfNotPresent}]
YAML
  (rolled_out daemonset/kubevmm-try-pause "$@") || { remove_try_pause "$@"; exit 1; }
  remove_try_pause "$@"
}
remove_try_pause() { "$@" -n kubevmm-system delete daemonset kubevmm-try-pause --ignore-not-found >/dev/null; }

if [ -n "${LAB_KUBECONFIG:-}" ]; then
  [ -r "$LAB_KUBECONFIG" ] || die "LAB_KUBECONFIG: there is no file $LAB_KUBECONFIG that can be read"
  export KUBECONFIG=$LAB_KUBECONFIG
  kubectl=$(command -v kubectl) || die "kubectl is not on the PATH"
  say "installing on the cluster of $LAB_KUBECONFIG: kubectl apply -f yamls/"
  install_on "$kubectl"
  say "looking whether each node can have the image of the placement pods"
  try_pause "$kubectl"
  "$kubectl" get hypervisors
  say "installed. Next: $virtctl run --help, and yamls/examples/"
  exit 0
fi

say "bringing up a cluster of two nodes, each with its own libvirtd, containerd and kubelet"
"$lab" up 2
kubectl=("$lab" kubectl)
export KUBECONFIG=${LAB_DIR:-/run/kubevmm-lab}/admin.kubeconfig

say "importing the images and installing KubeVMM: kubectl apply -f yamls/"
quietly "$lab" image all out/images/*.tar
install_on "${kubectl[@]}"
quietly "${kubectl[@]}" wait hypervisors.kubevmm.io --all --for=condition=Ready --timeout=120s
"${kubectl[@]}" get hypervisors

say "a pool, a network, classes and an image: kubectl apply -f yamls/examples/"
quietly "${kubectl[@]}" apply -f yamls/examples/00-defaults.yaml
"${kubectl[@]}" apply -f - <<YAML
apiVersion: kubevmm.io/v1beta1
kind: ClusterVirtualMachineImage
metadata: {name: tiny}
spec: {source: {http: {url: "$("$lab" url tiny.qcow2)"}}}
YAML

key=${LAB_DIR:-/run/kubevmm-lab}/demo-key
[ -f "$key" ] || ssh-keygen -q -t ed25519 -N '' -C demo -f "$key"

say "a VM: virtctl run demo --image tiny --ssh-key …"
"${kubectl[@]}" get vm demo >/dev/null 2>&1 ||
  "$virtctl" run demo --image tiny --class small --ssh-key "$key.pub" --timeout 5m
"${kubectl[@]}" get vm demo -o wide
node=$("${kubectl[@]}" get vm demo -o jsonpath='{.status.nodeName}')
address=$("${kubectl[@]}" get vm demo -o jsonpath='{.status.interfaces[0].addresses[0]}')

say "logging in to the guest at $address, from its host $node"
"$lab" exec "$node" -- install -m 600 /dev/stdin /root/demo-key <"$key"
ssh_options="-i /root/demo-key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ConnectTimeout=5 -o ConnectionAttempts=10"
# shellcheck disable=SC2086
"$lab" exec "$node" -- ssh $ssh_options "root@$address" 'echo "hello from $(hostname): $(uname -sr), $(uptime)"'

say "from apply to libvirt's \"started\", the image being on the host, beside virsh's own define + start"
"$programs/kubevmm-bench"

say "done. The guest is $address on $node."
cat <<NEXT

Try next:
  export KUBECONFIG=$KUBECONFIG
  $lab exec $node -- ssh ${ssh_options% -o ConnectTimeout*} root@$address
  $virtctl list; $virtctl describe demo; $virtctl restart demo --wait
  $lab kubectl get vm,vmd,vmpool,cvmnet,cvmimg,hv
  $lab kubectl -n kubevmm-system delete pod --all      # the guest does not notice
  $lab virsh $node list --all
Stop:
  make demo-down
NEXT
