#!/bin/bash
# demo.sh: the main job, on a real cluster on this machine: install KubeVMM, apply a VM, log in to the guest.
# `make demo` builds what this needs and runs it; `make demo-down` takes everything away again.
#
#   LAB_KUBECONFIG   install on this existing cluster instead of a lab (and start no VM there)
#   REGISTRY         where that cluster pulls the images from; as in `make yamls REGISTRY=…`
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

started=$SECONDS
say() { printf '\n[%3d s] %s\n' $((SECONDS - started)) "$*"; }
die() { printf '\ndemo: %s\n' "$*" >&2; exit 1; }
# Output of a step is shown only if it fails.
quietly() { local log; log=$(mktemp); if ! "$@" >"$log" 2>&1; then cat "$log" >&2; rm -f "$log"; die "failed: $*"; fi; rm -f "$log"; }

lab=$PWD/target/release/lab
virtctl=$PWD/target/release/virtctl
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

install_on() { # install_on KUBECTL..: the manifests, and wait until controller and executors are there
  "$@" apply -f yamls/ >/dev/null
  "$@" -n kubevmm-system rollout status deployment/kubevmm-controller --timeout=180s >/dev/null
  "$@" -n kubevmm-system rollout status daemonset/kubevmm-executor --timeout=180s >/dev/null
  "$@" wait hypervisors.kubevmm.io --all --for=create --timeout=60s >/dev/null
}

if [ -n "${LAB_KUBECONFIG:-}" ]; then
  export KUBECONFIG=$LAB_KUBECONFIG
  kubectl=$(command -v kubectl) || die "kubectl is not on the PATH"
  prefix=${REGISTRY:+$REGISTRY/}
  images=$("$kubectl" get nodes -o jsonpath='{.items[*].status.images[*].names[*]}')
  for image in controller executor pause; do
    case " $images " in
      *"${prefix}kubevmm/$image:$version "*) ;;
      *) die "no node of this cluster has the image ${prefix}kubevmm/$image:$version: import out/images/$image.tar on every node
      (ctr -n k8s.io images import out/images/$image.tar), or push it to a registry and run \`make yamls REGISTRY=…\`; see README.md" ;;
    esac
  done
  say "installing on the cluster of $LAB_KUBECONFIG"
  install_on "$kubectl"
  "$kubectl" get hypervisors
  say "installed. Next: $virtctl run --help, and yamls/examples/"
  exit 0
fi

say "bringing up a cluster of two nodes, each with its own libvirtd, containerd and kubelet"
"$lab" up 2
kubectl=("$lab" kubectl)
export KUBECONFIG=${LAB_DIR:-/run/kubevmm-lab}/admin.kubeconfig

say "importing the images and installing KubeVMM: kubectl apply -f yamls/"
quietly "$lab" image all out/images/controller.tar out/images/executor.tar out/images/pause.tar
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
target/release/kubevmm-bench

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
