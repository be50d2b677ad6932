#!/usr/bin/env bash
# Sweeps a tiny ladder on a real Slurm cluster of one node, and compares with the same sweep here.
#
#   apt-get install -y slurm-wlm munge     # Debian or Ubuntu
#   pip install -e '.[slurm]'
#   tests/cluster/slurm.sh [DIR]           # as root, in a container; a few minutes
#
# Starts munged, slurmctld and slurmd on the loopback address with everything they write in DIR
# (default: a new one below /tmp), without systemd or cgroups; stops them at the end. Two rungs of a
# trunk with two branches go to the queue, one of them as two tasks that are one jax.distributed run.
# In the middle one trunk is taken off its node (scontrol requeue), and another is told that its time
# is up; then every measurement must be there, and equal that of a sweep without Slurm. A third rung
# fails, and its branches must leave the queue. Ends with "ok", or with what is not as it should be.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "$here/../.." && pwd)"
dir="${1:-$(mktemp -d /tmp/slurm.XXXX)}"
mkdir -p "$dir"/{munge,state,spool}
dir="$(cd "$dir" && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
host="$(hostname -s)"
cd "$root"

pids=()
stop() {
  scancel --me 2>/dev/null || true
  for _ in $(seq 90); do
    [ -z "$(squeue --noheader 2>/dev/null)" ] && break
    sleep 1
  done
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do  # slurmd before what it speaks to
    kill "${pids[i]}" 2>/dev/null || true
    wait "${pids[i]}" 2>/dev/null || true
  done
}
trap stop EXIT

# Authentication, with a key and a socket of its own.
dd if=/dev/urandom of="$dir/munge/key" bs=128 count=1 status=none
chmod 700 "$dir/munge" && chmod 400 "$dir/munge/key"
socket="$dir/munge/socket"
munged --foreground --force --socket "$socket" --key-file "$dir/munge/key" \
  --log-file "$dir/munge/log" --pid-file "$dir/munge/pid" --seed-file "$dir/munge/seed" \
  >"$dir/munge/out" 2>&1 &
pids+=($!)

# Two cores that need not be there: the jobs are tiny, and what is tested is the queue.
cat >"$dir/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that is queued again waits for this many seconds (the default is 120).
AuthInfo=socket=$socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1
KillWait=60
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
CONF
export SLURM_CONF="$dir/slurm.conf"
slurmctld -D >/dev/null 2>&1 &
pids+=($!)
slurmd -D >/dev/null 2>&1 &
pids+=($!)
for _ in $(seq 30); do
  [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ] && break
  sleep 1
done
sinfo

sweep="$python -m scaling.sweep --config $here/tiny_ladder.py"
export JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR="$dir/compiled"
echo "== The ladder without Slurm"
export XLA_FLAGS=--xla_force_host_platform_device_count=2
$sweep --workdir "$dir/here" --only '[ab]'

echo "== The ladder on Slurm: rung a, each job one task of two devices"
$sweep --workdir "$dir/there" --only a --launcher slurm --slurm time=30
echo "== Again: nothing is submitted twice"
$sweep --workdir "$dir/there" --only a --launcher slurm --slurm time=30 | tee "$dir/again"
if grep -q submitted "$dir/again"; then echo "it was"; exit 1; fi
echo "== Rung b, each job two tasks of one device"
export XLA_FLAGS=--xla_force_host_platform_device_count=1
$sweep --workdir "$dir/there" --only b --launcher slurm --slurm time=30,tasks_per_node=2
echo "== A rung that fails"
$sweep --workdir "$dir/there" --only fails --launcher slurm --slurm time=30

echo "== Taking trunk a off its node in the middle"
id_of() {
  "$python" -c "import json; print(json.load(open('$dir/there/.slurm/jobs.json'))['$1'])"
}
until [ -d "$dir/there/a/checkpoints/300" ]; do sleep 0.1; done
scontrol requeue "$(id_of a)"
echo "== Telling trunk b that its time is nearly up"
until grep -qs "images/s" "$dir/there/b/train.log"; do sleep 0.1; done
scancel --signal=USR2 "$(id_of b)"
until [ -z "$(squeue --noheader)" ]; do sleep 15; squeue --noheader; done

"$python" "$here/compare.py" "$dir/here" "$dir/there"
for run in a b; do
  grep -H "received: saved at step" "$dir/there/$run/train.log" ||
    { echo "trunk $run was not interrupted"; exit 1; }
done
grep -h "^releases" "$dir"/there/.slurm/*_log.out
echo "== Again, when all is done: only what failed is submitted"
$sweep --workdir "$dir/there" --launcher slurm --slurm time=30 | tee "$dir/again"
[ "$(grep -c finished "$dir/again")" = 6 ] && [ "$(grep -c "fails.*: submitted" "$dir/again")" = 3 ]
echo ok
