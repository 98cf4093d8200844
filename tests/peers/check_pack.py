"""Shards of `perennial data pack` in the real `webdataset` package: the pictures and labels of the folder.

    python tests/peers/check_pack.py PACK FOLDER

PACK is a folder that holds the pack, FOLDER the pictures, one folder a class. The validation side is what
scikit-learn's train_test_split cuts off.
"""

import pathlib
import sys
import tarfile

import webdataset
from sklearn.model_selection import train_test_split


def expected(folder):
    """(class, bytes) of each side in the order of the sorted listing."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [(label, file) for label, path in enumerate(classes) for file in sorted(path.iterdir())]
    train, val = train_test_split(range(len(files)), test_size=0.3, random_state=42)
    side = lambda places: [(files[place][0], files[place][1].read_bytes()) for place in sorted(places)]
    return {"train": side(train), "val": side(val)}


def read(shards):
    """(class, bytes) of each sample, once as bytes and once decoded as a picture."""
    urls = [str(shard) for shard in shards]
    plain = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)
    decoded = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("pil")
    samples = []
    for raw, sample in zip(plain, decoded, strict=True):
        (ending,) = [key for key in raw if key in ("jpg", "jpeg", "png", "webp", "gif")]
        if sample["cls"] != int(raw["cls"]) or min(sample[ending].size) < 1:
            raise SystemExit(f"sample {raw['__key__']} is decoded as {sample}")
        samples.append((int(raw["cls"]), raw[ending], raw["__key__"]))
    return samples


def main():
    pack, folder = map(pathlib.Path, sys.argv[1:])
    for side, wanted in expected(folder).items():
        shards = sorted(pack.glob(f"{side}-*.tar"))
        samples = read(shards)
        keys = [key for _, _, key in samples]
        if len(set(keys)) != len(keys) or keys != sorted(keys):
            raise SystemExit(f"the keys of {side} are not distinct and sorted")
        if [sample[:2] for sample in samples] != wanted:
            raise SystemExit(f"{side}: {len(samples)} samples are not the {len(wanted)} of the folder")
        for shard in shards:
            with tarfile.open(shard) as tar:
                plain = all(not member.pax_headers and member.isreg() for member in tar)
            if not plain or shard.read_bytes()[257:265] != b"ustar\x0000":
                raise SystemExit(f"{shard} is no plain ustar file")
        print(f"ok {side}: {len(samples)} samples in {len(shards)} shards")


if __name__ == "__main__":
    main()
