"""The shop sells and tells; shipping hears of it and makes parcels."""

import json

from django.db import IntegrityError, transaction
from django.db.models import F
from django.http import JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from .inbox import handles
from .models import Item, Order, Parcel
from .outbox import send


@csrf_exempt
@require_POST
def place_order(request):
    """Order, message and stock are one transaction: all of them are there, or none."""
    wish = json.loads(request.body)
    try:
        with transaction.atomic():
            order = Order.objects.create(customer=wish["customer"], item_id=wish["item"])
            placed = {"id": order.id, "customer": order.customer}
            send("orders.placed", placed, source="shop", key=order.customer, dedupe_id=order.id)
            # Below zero the database refuses, and the message that is sent above was never there.
            Item.objects.filter(name=wish["item"]).update(stock=F("stock") - 1)
    except IntegrityError:
        return JsonResponse({"detail": "out of stock"}, status=409)
    return JsonResponse(placed, status=201)


@handles("shop", "orders.placed")
def make_parcel(order):
    """Runs in the transaction of the message's inbox row."""
    Parcel.objects.create(order=order["id"], customer=order["customer"])


def parcels(request):
    """What is to be sent, in the order in which it came."""
    found = Parcel.objects.order_by("id").values("order", "customer")
    return JsonResponse({"parcels": list(found)})
