"""``mmt doctor``: versions, devices, backends, and for everything that is missing the command that mends it."""

import argparse
import ctypes.util
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import mmt

CORE = (
    *("torch", "numpy", "scipy", "sacrebleu", "sentencepiece", "hydra-core", "omegaconf", "safetensors", "tabulate"),
    *("tensorboardX", "tqdm"),
)
# Distributions that bring the module "fairseq".
FAIRSEQ_DISTRIBUTIONS = ("ve-fairseq", "fairseq-fixed", "fairseq", "fairseq-built", "fairseq-light")
OLDEST_TORCH = (2, 10)
# What the kernel calls the instructions that matter for matrix products.
CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")
APEX_BUILD = (
    "git clone https://github.com/NVIDIA/apex && cd apex && "
    "pip install -v --no-build-isolation --config-settings '--build-option=--cpp_ext --cuda_ext' ."
)


class Findings:
    """Prints what was found, and counts what the core cannot do without."""

    def __init__(self) -> None:
        self.failures = 0

    def section(self, title: str) -> None:
        """Begin a section."""
        print(f"\n{title}")

    def show(self, name: str, value: str) -> None:
        """Print one fact."""
        print(f"  {name:22} {value}")

    def missing(self, name: str, mend: str, *, fatal: bool = False) -> None:
        """Print what is missing, and how to mend it."""
        self.failures += fatal
        self.show(name, f"{'MISSING' if fatal else 'no'}   mend: {mend}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``mmt doctor`` has no options."""


def run(args: argparse.Namespace) -> int:
    """Print everything; return 0 if the core works, else 1."""
    findings = Findings()
    for title, examine in SECTIONS.items():
        if examine not in NEED_TORCH or importlib.util.find_spec("torch"):
            findings.section(title)
            try:
                examine(findings)
            except ImportError as error:
                findings.missing("torch", f"pip install --force-reinstall torch   ({error})", fatal=True)
    failures = findings.failures
    print("\nThe core works." if not failures else f"\n{failures} things that the core needs are missing or broken.")
    return 1 if findings.failures else 0


def _versions(findings: Findings) -> None:
    findings.show("Python", f"{platform.python_version()} ({sys.executable})")
    findings.show("mmt", f"{mmt.__version__} ({Path(mmt.__file__).resolve().parent})")
    for name in CORE:
        version = distribution_version(name)
        if version is None:
            findings.missing(name, f"pip install {name}", fatal=True)
        else:
            findings.show(name, version)
    torch_version = distribution_version("torch")
    if torch_version and tuple(int(part) for part in torch_version.split(".")[:2]) < OLDEST_TORCH:
        findings.missing(f"torch >= {'.'.join(map(str, OLDEST_TORCH))}", "pip install -U torch", fatal=True)
    distributions = [f"{name} {version}" for name in FAIRSEQ_DISTRIBUTIONS if (version := distribution_version(name))]
    if importlib.util.find_spec("fairseq") is None:
        findings.missing("fairseq", f"pip install {fairseq_requirement()}", fatal=True)
    else:
        findings.show("fairseq", " and ".join(distributions) or "no distribution: a source tree")
    if len(distributions) > 1:
        wrong = [entry.split()[0] for entry in distributions[1:]]
        findings.missing(
            "only one fairseq",
            f"pip uninstall {' '.join(wrong)}, then pip install --force-reinstall {distributions[0].split()[0]}",
        )
    if mmt.import_error is None:
        findings.show("plugin", "task and model are registered with fairseq")
    else:
        findings.show("plugin", f"not loaded, {type(mmt.import_error).__name__}: {mmt.import_error}")
        findings.missing("plugin", f"pip install --force-reinstall {fairseq_requirement()}", fatal=True)


def fairseq_requirement() -> str:
    """Return the distribution of fairseq that works on this machine, as setup.cfg chooses it."""
    wheels = platform.machine() == "x86_64" and sys.platform == "linux"
    return "ve-fairseq==0.12.3" if wheels else "fairseq-fixed==0.12.3.1"


def _devices(findings: Findings) -> None:
    import torch

    findings.show(
        "CPU",
        f"{_cpu_name()}, {len(os.sched_getaffinity(0))} cores usable, torch uses {torch.get_num_threads()} threads",
    )
    flags = cpu_flags()
    findings.show(
        "instructions", " ".join(flag for flag in CPU_FLAGS if flag in flags) or "none of " + " ".join(CPU_FLAGS)
    )
    fast = "amx_bf16" in flags or "avx512_bf16" in flags
    findings.show(
        "bfloat16 on the CPU",
        "fast (--bf16 pays)" if fast else "works, but without instructions for it: --bf16 may be slower than float32",
    )
    if not torch.cuda.is_available():
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "this torch is built without CUDA"
        findings.show("CUDA", f"no device ({build})")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        bf16 = "bfloat16" if properties.major >= 8 else "no bfloat16"
        memory = properties.total_memory / 2**30
        findings.show(
            f"CUDA {index}",
            f"{properties.name}, {memory:.0f} GiB, compute capability {properties.major}.{properties.minor}, {bf16}",
        )


def _backends(findings: Findings) -> None:
    import torch

    if not torch.distributed.is_available():
        findings.missing("torch.distributed", "install a build of torch with it (pip install -U torch)")
        return
    backends = {
        "gloo (CPU)": torch.distributed.is_gloo_available(),
        "nccl (CUDA)": torch.distributed.is_nccl_available(),
        "mpi": torch.distributed.is_mpi_available(),
    }
    for name, there in backends.items():
        findings.show(name, "yes" if there else "no")


def _speed(findings: Findings) -> None:
    kind = apex_kind(importlib.util.find_spec("apex"))
    if kind == "NVIDIA":
        findings.show("NVIDIA apex", "yes (fairseq finds it by itself)")
    else:
        note = (
            "no; PyPI's package apex, an unrelated one, is installed instead: pip uninstall apex"
            if kind == "unrelated"
            else "no"
        )
        findings.show("NVIDIA apex", f"{note}. It is optional, and needs a CUDA compiler: {APEX_BUILD}")
    findings.show("memory allocator", _allocator())


def _optional(findings: Findings) -> None:
    extras = optional_packages()
    if extras is None:
        findings.missing(
            "mmt as a package", "pip install -e . (in mmt's source tree); without it optional packages are not known"
        )
        return
    for extra, packages in extras.items():
        missing = [name for name in packages if distribution_version(name) is None]
        if missing:
            findings.missing(f"[{extra}]", f"pip install -e '.[{extra}]'   (missing: {', '.join(missing)})")
        else:
            findings.show(f"[{extra}]", f"yes ({', '.join(packages)})")
    for module, language in (("MeCab", "ja"), ("mecab_ko", "ko")):
        if importlib.util.find_spec(module) is None:
            findings.missing(
                f"BLEU for {language}",
                f"pip install 'sacrebleu[{language}]'   (until then it is scored over characters)",
            )
        else:
            findings.show(f"BLEU for {language}", f"yes ({module})")


def _commands(findings: Findings) -> None:
    for name in ("mmt", "fairseq-train", "fairseq-hydra-train", "fairseq-generate"):
        beside_python = Path(sys.executable).with_name(name)
        on_path = shutil.which(name)
        if on_path:
            findings.show(name, on_path)
        elif beside_python.is_file():
            findings.show(name, f"{beside_python}, not on PATH   mend: source {beside_python.with_name('activate')}")
        else:
            package = f"--force-reinstall --no-deps {fairseq_requirement()}" if name != "mmt" else "-e ."
            findings.missing(name, f"pip install {package}", fatal=name == "fairseq-train")


SECTIONS: dict[str, Callable[[Findings], None]] = {
    "Versions": _versions,
    "Devices": _devices,
    "Distributed backends": _backends,
    "Speed": _speed,
    "Optional packages": _optional,
    "Commands": _commands,
}
NEED_TORCH = (_devices, _backends)


def distribution_version(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def optional_packages() -> dict[str, list[str]] | None:
    """Return the packages of each of mmt's extras, from its metadata; None if it is not installed as a package."""
    try:
        requirements = importlib.metadata.requires("mmt") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    extras: dict[str, list[str]] = {}
    for requirement in requirements:
        match = re.match(r"""([A-Za-z0-9._-]+).*;.*\bextra\s*==\s*["']([^"']+)["']""", requirement)
        if match:
            extras.setdefault(match[2], []).append(match[1])
    return extras


def apex_kind(spec: ModuleSpec | None) -> str | None:
    """Tell NVIDIA's apex from PyPI's unrelated package of that name, without running either.

    Returns:
        "NVIDIA", "unrelated", or None if there is no package of that name.
    """
    if spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    return (
        "NVIDIA"
        if any((folder / "normalization" / "fused_layer_norm.py").is_file() for folder in folders)
        else "unrelated"
    )


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Return what the kernel says the CPU can do; empty where it says nothing."""
    try:
        match = re.search(r"^(?:flags|Features)\s*:(.*)$", path.read_text(), re.MULTILINE)
    except OSError:
        return set()
    return set(match[1].split()) if match else set()


def _cpu_name() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.machine()


def _allocator() -> str:
    try:
        loaded = Path("/proc/self/maps").read_text()
    except OSError:
        loaded = ""
    for name in ("jemalloc", "tcmalloc"):
        if f"lib{name}" in loaded:
            return f"{name} is loaded"
    libraries = [library for name in ("jemalloc", "tcmalloc") if (library := ctypes.util.find_library(name))]
    found = (
        f"{', '.join(libraries)} could be preloaded (LD_PRELOAD)"
        if libraries
        else "neither jemalloc nor tcmalloc is installed"
    )
    return f"the C library's; {found}"
