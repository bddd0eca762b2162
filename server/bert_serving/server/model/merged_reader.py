"""Reads the tensors of a model with its adapter merged: ``W + scale * B @ A``, as PEFT's ``merge_and_unload()``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np

from .adapter import Adapter
from .config import ModelConfig
from .errors import WeightError
from .families import bert_name
from .readers import Reader, open_reader
from .sources import WORD_EMBEDDINGS, Source, canonical_hf, find_sources

#: Prefix that PEFT puts before the names of the model's modules.
_PREFIX = "base_model.model."
_LORA = re.compile(
    r"^(?P<layer>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector(?:\.weight)?)$"
)
#: Parts of names that stand for the module around a layer.
_WRAPPERS = re.compile(r"\.(?:base_layer|modules_to_save(?:\.default)?)(?=\.)")


@dataclass(frozen=True, slots=True)
class _Delta:
    """What is added to a tensor, or to one of its parts along the outputs; the names are those of the adapter's file.

    Attributes:
        a, b: names of the two factors; ``a`` is empty for a bias.
        scale: factor of the product.
        magnitude: name of the lengths of the rows; empty without any.
        is_embedding: the factors are those of a table: ``(B @ A).T`` is added.
    """

    source: Source
    a: str
    b: str
    scale: float
    magnitude: str = ""
    is_embedding: bool = False


@dataclass(slots=True)
class _Change:
    """The changes of a tensor.

    Attributes:
        replacements: names of the tensors in the place of its parts, by their numbers.
        is_whole: the base model does not count, or lacks the tensor: ``replacements`` has one.
        deltas: what is added then.
    """

    replacements: dict[int, str] = field(default_factory=dict)
    is_whole: bool = False
    deltas: list[_Delta] = field(default_factory=list)


def open_checkpoint(config: ModelConfig) -> Reader:
    """Opens the weights of a model, with its adapter merged.

    Raises:
        WeightError: a file is damaged, or the adapter does not belong to the base model.
        ReaderMissing: the library for a format is not installed.
    """
    base = open_reader(config.checkpoint, config.checkpoint_format)
    return base if config.adapter is None else MergedReader(base, config, config.adapter)


class MergedReader:
    """Merges each tensor when it is read. See ``readers.Reader``."""

    def __init__(self, base: Reader, config: ModelConfig, adapter: Adapter) -> None:
        self._base, self._config, self._adapter = base, config, adapter
        self._reader = open_reader(adapter.weights, adapter.weights_format)
        self._base_names = frozenset(base.names())
        sources = find_sources(self._base_names, config)
        self._places = _Places(self._base_names, sources, config)
        self._changes: dict[str, _Change] = {}
        self._layers: dict[str, dict[str, str]] = {}
        names = sorted(self._reader.names())
        adapter.require_quick(map(_name_of, names))
        for key in names:
            self._add(key)
        for layer, parts in self._layers.items():
            self._add_layer(layer, parts)
        self._reject_missing_layers(sources)

    def names(self) -> Iterable[str]:
        return self._base_names | self._changes.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        change = self._changes.get(name)
        if change is None or not change.is_whole:
            return self._base.shape(name)
        shape = self._reader.shape(change.replacements[0])
        return shape[::-1] if self._is_transposed(name) else shape

    def require_float(self, name: str) -> None:
        change = self._changes.get(name, _Change())
        if not change.is_whole:
            self._base.require_float(name)
        factors = (key for each in change.deltas for key in (each.a, each.b, each.magnitude) if key)
        for key in (*change.replacements.values(), *factors):
            self._reader.require_float(key)

    def read(self, name: str) -> np.ndarray:
        change = self._changes.get(name)
        if change is None:
            return self._base.read(name)
        is_transposed = self._is_transposed(name)
        if change.is_whole:
            weight = self._read(change.replacements[0])
        else:
            weight = self._base.read(name).T if is_transposed else self._base.read(name)
        weight = np.array(weight, np.float32, order="C")  # the other may be a view of the file
        for number, key in change.replacements.items() if not change.is_whole else ():
            values = self._read(key)
            weight[len(values) * number : len(values) * (number + 1)] = values
        with np.errstate(all="ignore"):
            for delta in change.deltas:
                rows = len(weight) // delta.source.parts
                first = rows * delta.source.part
                part = weight[first : first + rows]
                self._merge(delta, part)
                if not np.isfinite(part).all():
                    raise WeightError(
                        f"{name} of {self._config.checkpoint} is not finite with {delta.b} of {self._adapter.weights} "
                        f"and the scale {delta.scale:.3g}; copy the files of the adapter and of the base model again"
                    )
        return weight.T if is_transposed else weight

    def _is_transposed(self, name: str) -> bool:
        return self._config.checkpoint_format == "tf1" and name.endswith("/kernel")

    def is_changed(self, name: str) -> bool:
        """Returns whether the adapter changes a tensor."""
        return name in self._changes

    def _merge(self, delta: _Delta, weight: np.ndarray) -> None:
        """Adds a delta to a weight, ``[out, in]``, in place."""
        product = self._read(delta.b).reshape(-1) if not delta.a else self._read(delta.b) @ self._read(delta.a)
        weight += (product.T if delta.is_embedding else product) * np.float32(delta.scale)
        if delta.magnitude:
            lengths = np.linalg.norm(weight, axis=0 if delta.is_embedding else 1)
            factors = self._read(delta.magnitude).reshape(-1) / lengths
            weight *= factors if delta.is_embedding else factors[:, None]

    def _read(self, key: str) -> np.ndarray:
        """Returns a tensor of the adapter.

        Raises:
            WeightError: a value is not finite.
        """
        values = self._reader.read(key)
        if not np.isfinite(values).all():
            raise WeightError(f"{self._adapter.weights}: {key} holds a value that is not finite; copy the file again")
        return values

    def _add(self, key: str) -> None:
        """Adds a tensor of the adapter to the changes."""
        name = key.removeprefix(_PREFIX)
        if found := _LORA.match(name):
            part = found["part"].removesuffix(".weight") if "magnitude" in found["part"] else found["part"]
            if (other := self._layers.setdefault(found["layer"], {}).setdefault(part, key)) != key:
                raise WeightError(
                    f"{self._adapter.weights} has two tensors for {part} of {found['layer']}: {other} and {key}; save "
                    "the adapter of one encoder alone"
                )
            return
        name = _WRAPPERS.sub("", name)
        source = self._places.find(name)
        if source is None and not self._adapter.saves(name):
            raise WeightError(
                f"{self._adapter.weights} has the tensor {key}, but {self._config.checkpoint} has no tensor {name}, "
                "and modules_to_save does not name it; the adapter belongs to another base model, or is of another "
                "kind of PEFT"
            )
        is_whole = source is None or (source.parts == 1 and self._adapter.saves(name))
        if source is not None and not is_whole:
            shape = self._reader.shape(key)
            shape = (source.parts * shape[0], *shape[1:]) if shape else ()
            if (shape[::-1] if self._is_transposed(source.name) else shape) != self._base.shape(source.name):
                raise self._misfit(key, source)
        source = source or Source(name)
        change = self._changes.setdefault(source.name, _Change())
        if source.part in change.replacements:
            raise WeightError(
                f"{self._adapter.weights} has two tensors for {source.name}: {change.replacements[source.part]} and "
                f"{key}; save the adapter of one encoder alone"
            )
        change.replacements[source.part] = key
        change.is_whole = is_whole

    def _add_layer(self, layer: str, parts: Mapping[str, str]) -> None:
        """Adds the factors of a layer to the changes."""
        adapter, is_embedding = self._adapter, "lora_embedding_A" in parts or "lora_embedding_B" in parts
        names = ("lora_embedding_A", "lora_embedding_B") if is_embedding else ("lora_A.weight", "lora_B.weight")
        if missing := [name for name in names if name not in parts]:
            raise WeightError(f"{adapter.weights} has no {missing[0]} of {layer}; copy the file again")
        if others := sorted(parts.keys() - {*names, "lora_magnitude_vector", "lora_B.bias"}):
            raise WeightError(
                f"{adapter.weights} has {names[0]} and {others[0]} of {layer}, which has one kind; copy the file again"
            )
        if not adapter.changes(layer):
            raise WeightError(
                f"{adapter.weights} has weights of {layer}, which target_modules of {adapter.folder} does not name; "
                "the two belong to different adapters"
            )
        a, b = (parts[name] for name in names)
        source = self._require(f"{layer}.weight", a)
        has_magnitude = "lora_magnitude_vector" in parts
        if has_magnitude != adapter.has_magnitudes:
            raise WeightError(
                f"{adapter.weights}: {layer} has {'a' if has_magnitude else 'no'} lora_magnitude_vector, but use_dora "
                f"is {str(adapter.has_magnitudes).lower()}; copy both files of the adapter again"
            )
        self._check_shapes(a, b, layer, source, is_embedding)
        magnitude = parts.get("lora_magnitude_vector", "")
        for vector in filter(None, (magnitude, parts.get("lora_B.bias"))):
            self._require_length(vector, self._reader.shape(b)[0], b)
        scale = adapter.scale_of(layer)
        self._changes.setdefault(source.name, _Change()).deltas.append(
            _Delta(source, a, b, scale, magnitude, is_embedding)
        )
        if bias := parts.get("lora_B.bias"):
            if has_magnitude:
                raise WeightError(f"{adapter.weights}: {bias} of a layer with lora_magnitude_vector is not merged")
            place = self._require(f"{layer}.bias", bias)
            self._changes.setdefault(place.name, _Change()).deltas.append(_Delta(place, "", bias, scale))

    def _require(self, name: str, key: str) -> Source:
        source = self._places.find(name)
        if source is None:
            raise WeightError(
                f"{self._adapter.weights} has the tensor {key}, but {self._config.checkpoint} has no tensor {name}; "
                "the adapter belongs to another base model: set -base to its folder"
            )
        taken = self._changes.get(source.name)
        if taken is not None and any(each.source == source for each in taken.deltas):
            raise WeightError(
                f"{self._adapter.weights}: {key} and {taken.deltas[0].b} both change {source.name}; save the adapter "
                "of one encoder alone"
            )
        return source

    def _check_shapes(self, a: str, b: str, layer: str, source: Source, is_embedding: bool) -> None:
        rank = self._adapter.rank_of(layer)
        shape_a, shape_b = self._reader.shape(a), self._reader.shape(b)
        if len(shape_a) != 2 or len(shape_b) != 2:
            raise WeightError(
                f"{self._adapter.weights}: {a} has shape {list(shape_a)}; a LoRA of a convolution is not merged: "
                "model.merge_and_unload(), then save_pretrained()"
            )
        if shape_a[0] != rank or shape_b[1] != rank:
            raise WeightError(
                f"{self._adapter.weights}: {a} and {b} have the ranks {shape_a[0]} and {shape_b[1]}, but "
                f"{self._adapter.folder} sets {rank}; copy both files of the adapter again"
            )
        wanted = (shape_b[0] * source.parts, shape_a[1])
        if self.shape(source.name) != (wanted[::-1] if is_embedding or self._is_transposed(source.name) else wanted):
            raise self._misfit(a, source)

    def _require_length(self, key: str, length: int, b: str) -> None:
        """Raises ``WeightError`` if a tensor has another number of values than an output of ``b``."""
        if prod(shape := self._reader.shape(key)) != length or len(shape) - shape.count(1) > 1:
            raise WeightError(
                f"{self._adapter.weights}: {key} of shape {list(shape)} does not fit {b} of {length} outputs; copy the "
                "file again"
            )

    def _misfit(self, key: str, source: Source) -> WeightError:
        return WeightError(
            f"{self._adapter.weights}: {key} of shape {list(self._reader.shape(key))} does not fit {source.name} of "
            f"{self._config.checkpoint}, of shape {list(self._base.shape(source.name))}; the adapter belongs to "
            "another base model: set -base to its folder"
        )

    def _reject_missing_layers(self, sources: Mapping[str, Source]) -> None:
        """Raises ``WeightError`` if the configuration names a layer of the encoder that the file lacks."""
        known = {layer: self._places.find(f"{layer}.weight") for layer in self._layers}
        prefixes = _prefixes({layer: place.name for layer, place in known.items() if place is not None})
        if prefixes is None or not self._adapter.targets:
            return
        ours, theirs = prefixes
        kernels = (key for key in sources if key.startswith("encoder/") and key.endswith("/kernel"))
        names = (sources[key].name.removesuffix(".weight") for key in kernels)
        layers = [ours + name.removeprefix(theirs) for name in names if name.startswith(theirs)]
        self._adapter.require_quick(layers)
        for layer in layers:
            if self._adapter.changes(layer) and layer not in self._layers:
                raise WeightError(
                    f"{self._adapter.weights} has no weights of {layer}, which target_modules of "
                    f"{self._adapter.folder} names; copy the file again"
                )


def _name_of(key: str) -> str:
    """Returns the name of the layer or tensor that a tensor of an adapter changes."""
    name = key.removeprefix(_PREFIX)
    found = _LORA.match(name)
    return found["layer"] if found else _WRAPPERS.sub("", name)


def _prefixes(layers: Mapping[str, str]) -> tuple[str, str] | None:
    """Returns what stands before equal ends of the names of a layer and of its weight; None if that differs."""
    found = set()
    for layer, weight in layers.items():
        ours, theirs = layer.split("."), weight.removesuffix(".weight").split(".")
        while ours and theirs and ours[-1] == theirs[-1]:
            ours.pop()
            theirs.pop()
        found.add(tuple("".join(f"{part}." for part in parts) for parts in (ours, theirs)))
    if len(found) != 1:
        return None
    ((before, other),) = found
    return before, other


class _Places:
    """Finds the tensor of a base model for a name in the adapter, which may have another prefix or be a part."""

    def __init__(self, names: Iterable[str], sources: Mapping[str, Source], config: ModelConfig) -> None:
        self.names = frozenset(names)
        self._sources, self._family = sources, config.family
        self._scope = sources[WORD_EMBEDDINGS].name.partition("embeddings")[0]
        self._fused: dict[str, str] = {}
        for name in self.names:
            if name.startswith(self._scope) and (found := self._canonical(name)) and found not in sources:
                self._fused[found] = name

    def find(self, name: str) -> Source | None:
        """Returns the tensor with this name, or the one of the encoder that has this meaning; None if there is none."""
        canonical = self._canonical(name)
        if canonical is not None:
            if (source := self._sources.get(canonical)) is not None:
                return source
            if canonical in self._fused:
                return Source(self._fused[canonical])
        if name in self.names:
            return Source(name)
        found = [each for each in self.names if each.endswith(f".{name}") or name.endswith(f".{each}")]
        return Source(found[0]) if len(found) == 1 else None

    def _canonical(self, name: str) -> str | None:
        found = canonical_hf(bert_name(name, self._family))
        return found[1] if found else None
