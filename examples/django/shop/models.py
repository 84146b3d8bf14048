"""What the shop knows, and what shipping knows."""

from django.db import models


class Item(models.Model):
    """Something to sell."""

    name = models.CharField(max_length=100, primary_key=True)
    # The database refuses to go below zero.
    stock = models.PositiveIntegerField()


class Order(models.Model):
    """Something that was sold."""

    customer = models.CharField(max_length=100)
    item = models.ForeignKey(Item, on_delete=models.PROTECT)


class Parcel(models.Model):
    """Something that is to be sent; one per order, and nothing here says so but the inbox."""

    order = models.BigIntegerField()
    customer = models.CharField(max_length=100)
