"""Writes RLDS data sets as TFDS does, independently of the reader: protobuf's own encoder, and CRC-32C bit by bit."""

import io
import json
import struct

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from PIL import Image


def _example_class():
    """tf.train.Example from its definition (tensorflow/core/example/{example,feature}.proto)."""
    file = descriptor_pb2.FileDescriptorProto(name="example_for_tests.proto", package="fortests", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(name, *fields):
        message_type = file.message_type.add(name=name)
        for number, (field, kind, repeated, of) in enumerate(fields, 1):
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            message_type.field.add(name=field, number=number, type=kind, label=label, type_name=of and f".fortests.{of}")
        return message_type

    message("BytesList", ("value", kinds.TYPE_BYTES, True, None))
    message("FloatList", ("value", kinds.TYPE_FLOAT, True, None))
    message("Int64List", ("value", kinds.TYPE_INT64, True, None))
    lists = [
        (f"{n}_list", kinds.TYPE_MESSAGE, False, c)
        for n, c in (("bytes", "BytesList"), ("float", "FloatList"), ("int64", "Int64List"))
    ]
    feature = message("Feature", *lists)
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = message("Features", ("feature", kinds.TYPE_MESSAGE, True, "Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=kinds.TYPE_MESSAGE, label=kinds.LABEL_OPTIONAL, type_name=".fortests.Feature")
    message("Example", ("features", kinds.TYPE_MESSAGE, False, "Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("fortests.Example"))


Example = _example_class()


def example(values: dict) -> bytes:
    message = Example()
    for name, value in values.items():
        feature = message.features.feature[name]
        if isinstance(value, list):
            feature.bytes_list.value.extend(value)
        elif value.dtype.kind == "f":
            feature.float_list.value.extend(value.ravel().tolist())
        else:
            feature.int64_list.value.extend(value.ravel().astype(np.int64).tolist())
    # Else the order of a map's entries, and so every byte's position, differs from process to process.
    return message.SerializeToString(deterministic=True)


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def records(payloads) -> bytes:
    heads = [struct.pack("<Q", len(p)) for p in payloads]
    return b"".join(h + masked(h) + p + masked(p) for h, p in zip(heads, payloads, strict=True))


def jpeg(value: int, size: int = 16) -> bytes:
    file = io.BytesIO()
    pixels = np.full((size, size, 3), value % 256, np.uint8)
    pixels[: size // 2] //= 2
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def png(value: int, size: int = 16) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value % 256, np.uint8)).save(file, "PNG")
    return file.getvalue()


def tensor(dtype, *shape, encoding="none"):
    described = {"shape": {"dimensions": [str(n) for n in shape]}, "dtype": dtype, "encoding": encoding}
    return {"pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor", "tensor": described}


def image(size=16):
    described = {"shape": {"dimensions": [str(size), str(size), "3"]}, "dtype": "uint8", "encodingFormat": "jpeg"}
    return {"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image", "image": described}


def text():
    return {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}}


def group(**features):
    name = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    return {"pythonClassName": name, "featuresDict": {"features": features}}


def features(**steps):
    whole = {
        "pythonClassName": "tensorflow_datasets.core.features.dataset_feature.Dataset",
        "sequence": {"feature": group(**steps), "length": "-1"},
    }
    return group(steps=whole, episode_metadata=group(file_path=text()))


LENGTHS = (5, 3, 4, 6)


def episode(number: int, length: int) -> dict:
    """An ordinary OXE episode, whose actions and pixel levels tell the episode and the step."""
    steps = np.arange(length)
    action = np.stack([steps / 100, np.full(length, number / 10), *[np.sin(steps + k) / 10 for k in range(4)], steps % 2], 1)
    return {
        "steps/observation/image": [jpeg(60 + number * 40 + t) for t in steps],
        "steps/observation/state": np.stack([steps, np.full(length, number)], 1).astype(np.float32),
        "steps/action": action.astype(np.float32),
        "steps/language_instruction": [f"lift object {number}".encode()] * length,
        "steps/is_first": (steps == 0).astype(np.int64),
        "steps/is_last": (steps == length - 1).astype(np.int64),
        "episode_metadata/file_path": [f"/data/{number}.npy".encode()],
    }


PLAIN = features(
    observation=group(image=image(), state=tensor("float32", 2)),
    action=tensor("float32", 7),
    language_instruction=text(),
    is_first=tensor("bool"),
    is_last=tensor("bool"),
)


def write(folder, episodes, description=None, name="toy", files=2, split="train"):
    """A data set of `files` TFRecord files with its descriptions."""
    folder.mkdir(parents=True, exist_ok=True)
    shares = [episodes[k::files] for k in range(files)]
    for k, share in enumerate(shares):
        path = folder / f"{name}-{split}.tfrecord-{k:05d}-of-{files:05d}"
        path.write_bytes(records([e if isinstance(e, bytes) else example(e) for e in share]))
    entry = {"name": split, "shardLengths": [str(len(s)) for s in shares], "numBytes": "0"}
    entry["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": name, "version": "1.0.0", "fileFormat": "tfrecord", "splits": [entry]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    if description is not False:
        (folder / "features.json").write_text(json.dumps(description or PLAIN))
    return folder


def plain(folder, **kwargs):
    return write(folder, [episode(i, n) for i, n in enumerate(LENGTHS)], **kwargs)
