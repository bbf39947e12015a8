"""Evaluations; which of them chose an index's method."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "evaluations",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=True),
        sa.Column("model_id", sa.String(length=40), nullable=False),
        sa.Column("dataset_id", sa.String(length=40), nullable=False),
        sa.Column("index_id", sa.String(length=40), nullable=False),
        sa.Column("index_revision", sa.String(length=64), nullable=False),
        sa.Column("study_key", sa.String(length=64), nullable=False),
        sa.Column("config", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("asked", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("measurement", sa.String(length=16), nullable=False),
        sa.Column("questions", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("scorecard", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("verdicts", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("retrainings", sa.Integer(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=True),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
    )
    with op.batch_alter_table("evaluations", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_evaluations_index_id_state"), ["index_id", "state"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_evaluations_model_id_dataset_id_state"), ["model_id", "dataset_id", "state"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_evaluations_study_key"), ["study_key"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_evaluations_tenant_created_at_id"), ["tenant", "created_at", "id"], unique=False
        )

    with op.batch_alter_table("indexes", schema=None) as batch_op:
        batch_op.add_column(sa.Column("chosen_by", sa.String(length=40), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("indexes", schema=None) as batch_op:
        batch_op.drop_column("chosen_by")

    with op.batch_alter_table("evaluations", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_evaluations_tenant_created_at_id"))
        batch_op.drop_index(batch_op.f("ix_evaluations_study_key"))
        batch_op.drop_index(batch_op.f("ix_evaluations_model_id_dataset_id_state"))
        batch_op.drop_index(batch_op.f("ix_evaluations_index_id_state"))

    op.drop_table("evaluations")
