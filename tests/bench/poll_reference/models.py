"""Sessions, and limits of users."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, DateTime, Float, Index, Integer, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_Time = DateTime(timezone=True)


class Base(DeclarativeBase):
    """The tables' metadata."""


class PodSession(Base):
    """A pod from when it was started until a poll did not find it any more."""

    __tablename__ = "pod_session"

    id: Mapped[int] = mapped_column(primary_key=True)
    pod_uid: Mapped[str] = mapped_column(Text, unique=True)
    namespace: Mapped[str] = mapped_column(Text)
    pod: Mapped[str] = mapped_column(Text)
    username: Mapped[str] = mapped_column(Text)
    node: Mapped[str] = mapped_column(Text)
    gpu_type: Mapped[str] = mapped_column(Text)
    gpu: Mapped[int] = mapped_column(Integer)
    cpu_cores: Mapped[float] = mapped_column(Float)
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[datetime] = mapped_column(_Time)
    last_seen_at: Mapped[datetime] = mapped_column(_Time)
    ended_at: Mapped[datetime | None] = mapped_column(_Time)

    __table_args__ = (
        Index("pod_session_started_at_idx", "started_at"),
        Index("pod_session_username_started_at_idx", "username", "started_at"),
    )


Index("pod_session_open_idx", PodSession.username, postgresql_where=PodSession.ended_at.is_(None))


class UserLimit(Base):
    """What a user may have at a time; null is no limit."""

    __tablename__ = "user_limit"

    username: Mapped[str] = mapped_column(Text, primary_key=True)
    cpu_cores: Mapped[float | None] = mapped_column(Float)
    memory_gib: Mapped[float | None] = mapped_column(Float)
    gpu: Mapped[int | None] = mapped_column(Integer)
