"""visalign evaluate --bench: how well scorers agree with people, on a published benchmark's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import chosen, label, words

if TYPE_CHECKING:
    from pathlib import Path

    from ..evaluation.benches import PickAPic, Ranked
    from ..evaluation.calibration import Reliability, Row
    from ..evaluation.report import Table
    from ..records import Preference
    from ..scoring import Scorer
    from .screen import Screen

BATCH = 128  # pictures read at a time
PICTURES = ("hpd_v2", "image_reward", "pick_a_pic", "genai_bench", "records", "hps_v2")
ANSWERS = ("chair", "pope", "playground", "amber", "objhal", "mmhal")  # benchmarks of answers: `hallucination`


def options(made: Any) -> None:
    """What --bench needs."""
    made.add_argument("--bench", metavar="NAME", help="instead of models: hpd_v2, image_reward, pick_a_pic, "
                      "genai_bench, hps_v2 (a model's pictures), records (yours); of answers: chair, pope, "
                      "playground, amber, objhal, mmhal")  # fmt: skip
    made.add_argument("--data", metavar="PATH", help="the benchmark's own file; for hps_v2 the folder of pictures")
    made.add_argument("--threshold", type=float, metavar="T", help="pick_a_pic: probabilities that differ by this are "
                      "ties, as chosen on its validation pairs (else the best on these pairs)")  # fmt: skip
    made.add_argument("--bench-prompts", metavar="DIR", help="hps_v2: the folder of its prompt lists ({style}.json)")


def run(given: Any) -> int:
    """Score everything, print the table of protocols, write the report."""
    from pathlib import Path

    from ..config import suggestion
    from .screen import Screen

    if given.bench not in PICTURES:
        raise words.UsageError(f"no benchmark is named {given.bench!r}{suggestion(given.bench, PICTURES + ANSWERS)}")
    if not given.data:
        raise words.UsageError(f"--bench {given.bench} needs --data PATH, the benchmark's own file")
    if not given.judge:
        raise words.UsageError(f"--bench {given.bench} needs --judge NAME, a scorer: visalign list scorer")
    screen, path = Screen(), Path(given.data).expanduser()
    scorers = [scorer for scorer, _ in chosen.built(list(dict.fromkeys(given.judge)), given).values()]
    if given.bench == "hps_v2":
        return drawn(given, path, scorers, screen)
    records, root = read(given.bench, path)
    found = {each.name: asked(each, records, root, screen) for each in scorers}
    return told(given, records, found, {each.name: temperature(each) for each in scorers}, screen)


def read(name: str, path: Path) -> tuple[list[Preference], Path]:
    """The records of a benchmark, and the folder that its pictures are relative to."""
    from ..data import benches, sources

    readers = {
        "hpd_v2": benches.hpd_v2,
        "image_reward": benches.image_reward,
        "pick_a_pic": sources.pickapic,
        "genai_bench": benches.genai_bench,
        "records": sources.open_source,
    }
    return readers[name](path), sources.root(path)


def asked(scorer: Scorer, records: Sequence[Preference], root: Path, screen: Screen) -> list[Ranked]:
    """What a scorer says of every picture, beside what people say; UsageError where it could judge no two of a prompt.

    What cannot be read or judged is NaN, and the first reason is told.
    """
    import numpy as np

    from ..evaluation.benches import Ranked

    places = [(record, item) for record in records for item in record.items]
    values: list[float] = []
    reasons: list[str] = []
    with screen.stage(f"score by {scorer.name}", total=len(places)) as stage:
        for start in range(0, len(places), BATCH):
            said, why_not = label.judged(scorer, list(label.samples(places[start : start + BATCH], root)))
            values, reasons = values + said, reasons + why_not
            stage(len(values))
    if unjudged := sum(value != value for value in values):
        screen.warn(
            f"{scorer.name}: {unjudged} of {len(values)} not judged" + "".join(f": {why}" for why in reasons[:1])
        )
    rest = iter(values)
    found = [Ranked(np.array([next(rest) for _ in record.items]), people(record)) for record in records]
    if values and unjudged == len(values):
        raise words.UsageError(
            f"{scorer.name} could judge none of {len(values)} pictures: {(*reasons, 'no reason')[0]}"
        )
    return found


def people(record: Preference) -> Any:
    """(K,) what people say of a record's items; a verdict as 1 and 0, ties and "both bad" alike."""
    import numpy as np

    said = {"first": (1.0, 0.0), "second": (0.0, 1.0), "tie": (0.5, 0.5), "both_bad": (0.5, 0.5)}
    return np.array(said[record.verdict]) if record.verdict else record.utilities


def temperature(scorer: Scorer) -> float:
    """At which the scorer's values are probabilities; 1 where it does not say."""
    from ..scoring import Specified

    return (scorer.spec.temperature or 1.0) if isinstance(scorer, Specified) else 1.0


def told(
    given: Any, records: Sequence[Preference], found: Mapping[str, Sequence[Ranked]], at: Mapping[str, float],
    screen: Screen,
) -> int:  # fmt: skip
    """The table of every protocol, the reliability curves and the aspects, on the screen and as a report."""
    from pathlib import Path

    from ..evaluation import benches, calibration
    from ..evaluation.report import Figure, Report, Table
    from ..evaluation.shares import plain

    lacking = [name for name, each in found.items() if not any(len(one.pairs()) for one in each)]
    if lacking:
        raise words.UsageError(f"{given.bench}: no prompt has two pictures that people rank and {lacking[0]} judges")
    said: dict[str, dict[str, Any]] = {name: benches.summary(each, at[name]) for name, each in found.items()}
    if given.bench == "pick_a_pic":
        how = "the best threshold on these pairs" if given.threshold is None else "the given threshold"
        for name, each in found.items():
            said[name][f"Pick-a-Pic, ties by {how}"] = pick_a_pic(each, at[name], given.threshold)
    names = list(said)
    rows = [[key, *(words_of(said[name][key]) for name in names)] for key in said[names[0]]]
    note = (
        "Numbers of different protocols cannot be compared, whatever table they stand in. Brackets: 95 % over prompts."
    )
    tables = [Table(f"Agreement with people on {given.bench}", ["protocol", *names], rows, note)]
    parts = {name: aspects(records, each) for name, each in found.items()}
    if len(parts[names[0]]) > 1:
        tables.append(_by_aspect(parts))
        said = {name: {**each, "by aspect": parts[name]} for name, each in said.items()}
    for table in tables:
        screen.show(table)
    png = calibration.picture({name: curve(each, at[name]) for name, each in found.items()})
    figure = Figure("reliability", "How often what a scorer calls likelier is what people preferred.", png)
    lead = f"{', '.join(names)} on {given.bench}: {len(records)} prompts."
    page = Report(given.bench, lead, plain(said), tables, figures=[figure]).write(Path(given.out))
    screen.say(f"report: {page}")
    return 0


def aspects(records: Sequence[Preference], found: Sequence[Ranked]) -> dict[str, Row]:
    """What a scorer makes of the pairs that were judged in each aspect."""
    import numpy as np

    from ..evaluation import calibration

    gaps = {name: [each.pairs() for record, each in zip(records, found, strict=True) if record.aspect == name]
            for name in dict.fromkeys(record.aspect for record in records)}  # fmt: skip
    return {name: calibration.counted(*np.concatenate(each).T) for name, each in gaps.items()}


def _by_aspect(parts: Mapping[str, Mapping[str, Row]]) -> Table:
    from ..evaluation.report import Table

    names = list(parts)
    rows = [[aspect, *(f"{part[aspect].right} / {part[aspect].tied} / {part[aspect].wrong}" for part in parts.values())]
            for aspect in parts[names[0]]]  # fmt: skip
    return Table("By aspect", ["aspect", *names], rows, "Pairs that people do not tie: right / tied by it / wrong.")


def words_of(value: Any) -> str:
    """A number as a table shows it."""
    return "—" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def curve(prompts: Sequence[Ranked], temperature: float) -> Reliability:
    """The reliability curve over all pairs."""
    import numpy as np

    from ..evaluation.calibration import reliability

    gaps = np.concatenate([each.pairs() for each in prompts])
    return reliability(gaps[:, 0], (np.sign(gaps[:, 1]) + 1) / 2, temperature)


def pick_a_pic(prompts: Sequence[Ranked], temperature: float, threshold: float | None) -> PickAPic:
    """Pick-a-Pic's own accuracy over its pairs."""
    import numpy as np

    from ..evaluation import benches

    gaps = np.concatenate([each.pairs() for each in prompts])
    outcomes = (np.sign(gaps[:, 1]) + 1) / 2
    return benches.pick_a_pic(np.exp(-np.logaddexp(0, -gaps[:, 0] / temperature)), outcomes, threshold=threshold)


def drawn(given: Any, path: Path, scorers: Sequence[Scorer], screen: Screen) -> int:
    """The HPS v2 benchmark of a model's pictures, a table a scorer."""
    import json
    from pathlib import Path

    import numpy as np

    from ..data import benches as files
    from ..evaluation import benches

    if not given.bench_prompts:
        raise words.UsageError("--bench hps_v2 needs --bench-prompts DIR, the folder of its prompt lists")
    styles = files.drawn(path, Path(given.bench_prompts).expanduser())
    said: dict[str, Any] = {}
    for scorer in scorers:
        values = {style: np.array([each.said[0] for each in asked(scorer, records, path, screen)])
                  for style, records in styles.items()}  # fmt: skip
        try:
            found = benches.hps_v2(values)
        except ValueError as error:
            raise words.UsageError(f"{scorer.name}: {error}") from None
        said[scorer.name] = {style: vars(each) for style, each in found.items()}
        rows = [[style, f"{each.mean:.4f}", words_of(each.deviation), str(each.count)] for style, each in found.items()]
        note = "Means of ten groups' means and their deviation, on the scorer's own scale; averaged: over all pictures."
        screen.table(f"HPS v2 benchmark by {scorer.name}", ["style", "mean", "deviation", "judged"], rows, note)
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    screen.say(f"numbers: {out / 'report.json'}")
    return 0
