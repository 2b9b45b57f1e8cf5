#!/bin/sh
# Runs a command beside a Slurm of one node, this machine's loopback address, and takes the Slurm down afterwards.
# Needs root and Debian's packages: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
set -eu
for program in munged slurmctld slurmd sbatch srun; do
    command -v "$program" > /dev/null || { echo "$program is missing: apt-get install slurmctld slurmd slurm-client munge"; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "slurmd starts jobs as their owner, for which it must be root"; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
chmod 755 "$work"
mkdir -m 700 "$work/state" "$work/spool"
mkdir -m 755 "$work/munge"
head -c 128 /dev/urandom > "$work/munge.key"
chmod 600 "$work/munge.key"
cat > "$work/slurm.conf" << CONF
ClusterName=loopback
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket
CredType=cred/munge
SlurmctldPort=26817
SlurmdPort=26818
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MessageTimeout=60
MpiDefault=none
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$(nproc --all) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$work/slurm.conf"
PATH="$here/bin:$PATH"
stop() {
    scancel --user=root --signal=KILL --full 2> /dev/null || true
    scancel --user=root 2> /dev/null || true
    sleep 2
    for name in slurmd slurmctld munged; do
        [ ! -s "$work/$name.pid" ] || kill "$(cat "$work/$name.pid")" 2> /dev/null || true
    done
    sleep 2
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM
munged --force --key-file="$work/munge.key" --socket="$work/munge/socket" --pid-file="$work/munged.pid" \
    --log-file="$work/munged.log" --seed-file="$work/munged.seed"
slurmctld
slurmd
for _ in $(seq 60); do
    sinfo --noheader --format=%T 2> /dev/null | grep -qx idle && break
    sleep 1
done
sinfo
"$@"
