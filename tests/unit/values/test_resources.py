from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.values.resources import MemorySize, format_walltime, parse_walltime


@pytest.mark.parametrize(
    ("written", "mib"),
    [("4G", 4096), ("4 GiB", 4096), ("512M", 512), ("1T", 1048576), ("2048K", 2), ("3GB", 3072)],
)
def test_memory_is_read(written: str, mib: int) -> None:
    assert MemorySize.parse(written).mib == mib


@pytest.mark.parametrize(
    "written",
    ["4", "", "G", "-4G", "4X", "0G", "1.5G", "4G --exclusive", "4G\n", "1e3G", "1000K", "٤G"],
)
def test_memory_is_refused_with_a_remedy(written: str) -> None:
    with pytest.raises(ValueError, match=r"write it"):
        MemorySize.parse(written)


@given(st.integers(min_value=1, max_value=10**8))
def test_memory_reads_back_what_it_prints(mib: int) -> None:
    assert MemorySize.parse(str(MemorySize(mib))) == MemorySize(mib)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("90m", 5400),
        ("8h", 28800),
        ("1d 12h", 129600),
        ("8:00:00", 28800),
        ("1-12:00:00", 129600),
        ("45s", 45),
        ("2h 30min", 9000),
    ],
)
def test_walltime_is_read(written: str, seconds: int) -> None:
    assert parse_walltime(written) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "written",
    ["30:00", "infinite", "-1", "0", "1-", "12:99:00", "1e9", "٣h", "10 ", "", "0h", "8h\n"],
)
def test_walltime_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"walltime|time"):
        parse_walltime(written)


@given(st.integers(min_value=1, max_value=9999 * 86400))
def test_walltime_reads_back_what_it_prints(seconds: int) -> None:
    value = timedelta(seconds=seconds)
    assert parse_walltime(format_walltime(value)) == value


@given(st.text())
def test_parsers_only_ever_raise_value_error(written: str) -> None:
    for parse in (MemorySize.parse, parse_walltime):
        said = ""
        try:
            parse(written)
        except ValueError as error:
            said = str(error)
        assert said.isprintable()
