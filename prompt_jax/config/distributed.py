"""How one of several processes finds the others."""

from dataclasses import dataclass

from prompt_jax.config.checks import InputError, at_least


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """The processes of a run, as `jax.distributed.initialize` takes them; JAX finds most by itself.

    It does on TPU pods, GKE, Slurm and Open MPI; without any of them there is one process.
    """

    coordinator_address: str = ""
    """HOST:PORT of process 0, where JAX does not find it by itself."""
    num_processes: int | None = None
    """The number of processes."""
    process_id: int | None = None
    """The number of this process, from 0."""
    detect: bool = True
    """Whether JAX looks for others; without it, a process on a cluster is alone."""

    def __post_init__(self):
        address = self.coordinator_address or None
        if (address, self.num_processes, self.process_id) == (None, None, None):
            return
        if self.num_processes is None or self.process_id is None or not address:
            raise InputError(
                "distributed.coordinator_address, num_processes and process_id belong together, "
                f"got {address}, {self.num_processes} and {self.process_id}; give all three, or "
                "none where JAX finds the processes by itself (TPU pods, GKE, Slurm, Open MPI)"
            )
        at_least("distributed.num_processes", self.num_processes, 1)
        if not 0 <= self.process_id < self.num_processes:
            raise InputError(
                f"distributed.process_id must be 0 to {self.num_processes - 1} for "
                f"{self.num_processes} processes, got {self.process_id}"
            )
        if not self.coordinator_address.rpartition(":")[2].isdecimal():
            raise InputError(
                "distributed.coordinator_address is HOST:PORT, e.g. 10.0.0.1:1234, got "
                f"{self.coordinator_address!r}"
            )
