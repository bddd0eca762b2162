"""Creates a virtual environment for each peer, once, in the cache folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from original import CACHE, install_original

#: Latest tested versions. A CPU build of torch is sufficient and smaller.
TORCH = "torch==2.13.0"
ONNX = ["onnx==1.23.2", "onnxruntime==1.31.1"]
#: Version 6 needs transformers 5. Its ONNX backend needs optimum-onnx, which does not support transformers 5 yet.
SENTENCE_TRANSFORMERS = {"torch": "6.2.0", "onnx": "5.7.0"}
INFINITY = "0.0.78"
FASTEMBED = "0.9.1"
CTRANSLATE2 = "4.8.5"
#: Python bindings of llama.cpp with its server.
XLLAMACPP = "2026.10.11549"
OPTIMUM = ["optimum==2.1.0", "optimum-onnx[onnxruntime]==0.1.0", "transformers==4.57.6"]
OPENVINO = [
    "optimum==2.3.0",
    "transformers==5.5.4",
    "nncf==3.4.0",
    "openvino==2026.4.1",
    "openvino-tokenizers==2026.4.1.0",
    "requests==2.34.2",
]
PACKAGES = {
    "sentence-transformers": [f"sentence-transformers=={SENTENCE_TRANSFORMERS['torch']}", *ONNX],
    "sentence-transformers-onnx": [f"sentence-transformers[onnx]=={SENTENCE_TRANSFORMERS['onnx']}", *OPTIMUM, *ONNX],
    "infinity": [f"infinity-emb[server,torch,optimum]=={INFINITY}", *OPTIMUM, *ONNX],
    "openvino": [f"sentence-transformers=={SENTENCE_TRANSFORMERS['torch']}", *OPENVINO],
    "fastembed": [f"fastembed=={FASTEMBED}", "onnxruntime==1.31.1"],
    "ctranslate2": [f"ctranslate2=={CTRANSLATE2}", "transformers==4.57.6"],
    "llama.cpp": [f"xllamacpp=={XLLAMACPP}", "gguf==0.19.0", "safetensors==0.8.0"],
}
#: Packages that are installed without their requirements: optimum-intel requires torchvision, whose wheels on PyPI need
#: the CUDA build of torch. The other packages that it imports are in ``OPENVINO``.
WITHOUT_REQUIREMENTS = {"openvino": ["optimum-intel==2.2.0"]}
WITHOUT_TORCH = frozenset({"fastembed", "llama.cpp"})
#: Additional arguments of pip, such as ``--extra-index-url``.
PIP_ARGS: list[str] = []
#: Packages whose versions the report contains.
REPORTED_PACKAGES = (
    "bert-serving-server", "tensorflow", "tensorflow-cpu", "torch", "sentence-transformers", "transformers",
    "optimum", "optimum-onnx", "infinity_emb", "infinity-emb", "optimum-intel", "openvino", "nncf",
    "fastembed", "ctranslate2", "xllamacpp", "onnxruntime", "numpy", "pyzmq", "tokenizers",
)  # fmt: skip

#: Disables downloads and telemetry of all peers.
OFFLINE = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "-1",
}  # fmt: skip


class InstallError(RuntimeError):
    """A peer cannot be installed on this machine; the message contains the reason."""


def interpreter(environment: str, python37: str | None) -> str:
    """Returns the Python of an environment: ``this``, ``original`` or a key of ``PACKAGES``.

    Args:
        python37: Python 3.7, for the original.

    Raises:
        InstallError: pip failed, or Python 3.7 is missing.
    """
    if environment == "this":
        return sys.executable
    try:
        if environment == "original":
            if python37 is None:
                raise InstallError("the original needs Python 3.7; set it with --python3.7")
            return str(install_original(python37))
        return str(_install(environment))
    except (subprocess.CalledProcessError, OSError) as error:
        detail = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        raise InstallError(f"installation failed: {detail}") from error


def _install(environment: str) -> Path:
    folder = CACHE / environment
    python = folder / "bin" / "python"
    packages = [*([] if environment in WITHOUT_TORCH else [TORCH]), *PACKAGES[environment]]
    bare = WITHOUT_REQUIREMENTS.get(environment, [])
    wanted = "\n".join([*packages, *bare])
    done = folder / ".complete"
    if done.is_file() and done.read_text("utf-8") == wanted:
        return python
    print(f"installing {', '.join(packages)} ...", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, text=True)
    constraint = folder / "constraint.txt"  # all peers use the same torch
    constraint.write_text(TORCH + "\n", "utf-8")
    pip = [str(python), "-m", "pip", "install", "-q", "-c", str(constraint), *PIP_ARGS]
    subprocess.run([*pip, *packages], check=True, capture_output=True, text=True)
    if bare:
        subprocess.run([*pip, "--no-deps", *bare], check=True, capture_output=True, text=True)
    done.write_text(wanted, "utf-8")
    return python


def versions(python: str) -> dict[str, str]:
    """Returns the versions of Python and of the ``REPORTED_PACKAGES`` in an environment."""
    code = (
        "import json, sys\n"
        "try:\n    from importlib.metadata import version\n"
        "except ImportError:\n    from pkg_resources import get_distribution\n"
        "    version = lambda name: get_distribution(name).version\n"
        "found = {'python': sys.version.split()[0]}\n"
        "for name in sys.argv[1:]:\n    try:\n        found[name.replace('_', '-')] = version(name)\n"
        "    except Exception:\n        pass\n"
        "print(json.dumps(found))"
    )
    out = subprocess.run([python, "-c", code, *REPORTED_PACKAGES], check=True, capture_output=True, text=True).stdout
    found: dict[str, str] = json.loads(out)
    return found
