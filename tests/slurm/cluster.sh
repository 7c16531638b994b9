#!/usr/bin/env bash
# A Slurm cluster of this machine alone, on loopback: cluster.sh start DIR | cluster.sh stop DIR
# Debian packages: slurmctld slurmd slurm-client munge. Needs root: slurmd starts jobs as their user. Ports, keys and
# sockets are its own, so that it runs beside an installed cluster. Clients set SLURM_CONF=DIR/slurm.conf.
set -euo pipefail

command=${1:?start or stop} dir=$(realpath -m "${2:?folder of the cluster}")
host=$(hostname -s)

stop() {
  if [ -f "$dir/slurm.conf" ]; then SLURM_CONF="$dir/slurm.conf" timeout 10 scancel --full --user="$(id -un)" || true; fi
  for daemon in slurmd slurmctld munged; do
    if [ -s "$dir/$daemon.pid" ]; then
      pid=$(cat "$dir/$daemon.pid")
      kill "$pid" 2>/dev/null || continue
      for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || continue 2
        sleep 0.1
      done
      kill -9 "$pid" # slurmd waits for ever for a job that does not end
    fi
  done
}

start() {
  for program in munged slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null || { echo "missing: $program" >&2; exit 3; }
  done
  mkdir -p "$dir"/{state,spool,log}
  chmod 755 "$dir"
  # munged wants a socket folder that nobody else can write to
  head -c 128 /dev/urandom >"$dir/munge.key"
  chmod 400 "$dir/munge.key"
  munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
    --log-file="$dir/log/munged.log" --seed-file="$dir/munge.seed"
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  cat >"$dir/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port > 60000 ? port - 1 : port + 1))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
# neither control groups nor a database
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
JobRequeue=1
SchedulerParameters=sched_interval=1,batch_sched_delay=0
MessageTimeout=60
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(free -m | awk '/^Mem/ {print int($2 * 0.9)}') State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
  export SLURM_CONF="$dir/slurm.conf"
  slurmctld -f "$SLURM_CONF"
  slurmd -f "$SLURM_CONF" -N "$host"
  for _ in $(seq 100); do
    if sinfo --noheader --format=%t 2>/dev/null | grep -qE '^(idle|mix|alloc)$'; then exit 0; fi
    sleep 0.2
  done
  tail -n 20 "$dir"/log/*.log >&2
  exit 1
}

case $command in
  start) start ;;
  stop) stop ;;
  *) echo "start or stop, not $command" >&2; exit 2 ;;
esac
