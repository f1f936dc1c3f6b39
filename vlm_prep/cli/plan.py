"""`vlm-prep plan`: what a run over a source will cost, before it is started."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_prep.cli import options
from vlm_prep.core.errors import InputError
from vlm_prep.core.settings import CheckMedia, TokenizeConfig


def command(
    source: Annotated[str, typer.Argument(help="A meta JSON, a data file, a dataset folder, or an ingested folder.")],
    processor: Annotated[
        str, typer.Option("--processor", "-p", help="Hugging Face id, folder, or builtin:qwen2.5-vl-mini.")
    ],
    fraction: Annotated[
        float | None,
        typer.Option(
            max=1.0,
            help="Share of the rows to look at; 1 for all, which makes counts exact. [default: 0.01, at least 256 and "
            "at most 4096 rows]",
        ),
    ] = None,
    rows: Annotated[int | None, typer.Option(min=2, help="How many rows to look at, in place of --fraction.")] = None,
    max_length: Annotated[
        list[int] | None,
        typer.Option(
            "--max-length", min=1, help="A length to show; may be repeated. [default: 2048, 4096, 8192, 16384, 32768]"
        ),
    ] = None,
    max_pixels: Annotated[
        list[int] | None,
        typer.Option(
            "--max-pixels",
            min=1,
            help="A pixel budget to show, as --processor-arg max_pixels=N sets it; may be repeated. [default: those of "
            "256, 1024 and 4096 tokens a picture]",
        ),
    ] = None,
    budgets: Annotated[bool, typer.Option(help="Show pixel budgets; each one looks at the rows again.")] = True,
    audio: options.AudioPayloadOption = "waveform",
    train_on: options.TrainOnOption = "assistant",
    train_end: options.TrainEndOption = "all",
    train_reasoning: options.TrainReasoning = True,
    train_tool_calls: options.TrainToolCalls = True,
    rewritten_history: options.RewrittenHistoryOption = "reject",
    loss_weights: options.LossWeights = False,
    thinking_prefix: options.ThinkingPrefix = False,
    control_tokens: options.ControlTokensOption = "text",
    tool_text: options.ToolTextOption = "inline",
    check_media: Annotated[
        CheckMedia, typer.Option(help="Read headers and ends of pictures, or decode each one to find inner damage.")
    ] = "header",
    max_image_pixels: options.MaxImagePixels = 178_956_970,
    fps: Annotated[float | None, typer.Option(help="Video frames a second. [default: the processor's]")] = None,
    min_frames: Annotated[int | None, typer.Option(min=1, help="Least frames of a video.")] = None,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Most frames of a video.")] = None,
    processor_arg: options.ProcessorArg = None,
    chat_template: options.ChatTemplate = None,
    trust_remote_code: options.TrustRemoteCode = False,
    audio_in_video: Annotated[
        bool, typer.Option("--audio-in-video", help="Interleave videos with their sound (Qwen-Omni).")
    ] = False,
    verify_fraction: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of rows that the run compares with the real processor.")
    ] = 0.01,
    dataset: options.Dataset = None,
    format: options.Format = None,
    column: options.Column = None,
    tag: options.Tag = None,
    media_dir: options.MediaDir = None,
    sample_ratio: options.SampleRatio = None,
    split: options.Split = None,
    system_prompt: options.SystemPrompt = None,
    user_prompt: options.UserPrompt = None,
    min_duration: options.MinDuration = None,
    max_duration: options.MaxDuration = None,
    limit: options.Limit = None,
    workers: options.Workers = None,
    sample_timeout: options.SampleTimeout = 300.0,
    worker_memory: options.WorkerMemory = "8G",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Look at a sample of the rows and say what tokenize and pack will make of all: disk, time, tokens, packs, rejects.

    Nothing is kept; what is written meanwhile goes to the system's folder for temporary files (TMPDIR).
    """
    from vlm_prep.ingest.source import open_samples
    from vlm_prep.report.plan.estimate import SampleSize
    from vlm_prep.report.plan.plan_text import render
    from vlm_prep.report.plan.planning import LENGTHS, Choices, plan

    options.check_positive(fraction, "--fraction")
    options.check_positive(fps, "--fps")
    options.check_history(train_on, rewritten_history)
    if min_frames is not None and max_frames is not None and min_frames > max_frames:
        raise InputError(
            f"--min-frames {min_frames} is more than --max-frames {max_frames}", "lower the one or raise the other"
        )
    if max_pixels and not budgets:
        raise InputError("--max-pixels and --no-budgets exclude each other", "leave one out")
    samples = open_samples(
        source,
        datasets=dataset,
        format=format,
        columns=options.pairs(column, "--column"),
        tags=options.pairs(tag, "--tag"),
        media_dir=media_dir,
        sample_ratio=sample_ratio,
        limit=limit,
        split=split,
        system_prompt=system_prompt,
        user_prompt=user_prompt,
        min_duration=min_duration,
        max_duration=max_duration,
    )
    config = TokenizeConfig(
        audio=audio,
        train_on=train_on,
        train_end=train_end,
        train_reasoning=train_reasoning,
        train_tool_calls=train_tool_calls,
        rewritten_history=rewritten_history,
        loss_weights=loss_weights,
        thinking_prefix=thinking_prefix,
        control_tokens=control_tokens,
        tool_text=tool_text,
        check_media=check_media,
        max_image_pixels=max_image_pixels,
        fps=fps,
        min_frames=min_frames,
        max_frames=max_frames,
        processor_args=options.settings(processor_arg),
        chat_template=options.read_template(chat_template),
        trust_remote_code=trust_remote_code,
        audio_in_video=audio_in_video,
        verify_fraction=verify_fraction,
    )
    run = options.run_options(Path(), workers, False, 1.0, quiet, sample_timeout, worker_memory)
    found = plan(
        samples,
        processor,
        config,
        run,
        Choices(
            lengths=sorted(set(max_length or LENGTHS)),
            budgets=max_pixels if budgets else (),
            size=SampleSize(fraction=fraction, rows=rows),
        ),
    )
    if as_json:
        options.show_json(found)
    else:
        typer.echo(render(found))
